"""Lints the schemas in proto/: the rules of buf's DEFAULT and COMMENTS categories that matter to us.

    python tests/lint/proto.py [DIRECTORY]

Works on what protoc itself understood (a descriptor set with source positions), so there is no parser of our own to be
wrong. Does not look for breaking changes. Prints one line per violation, PATH:LINE: SENTENCE, and exits with 1 when
there is any.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
PROTOC = (ROOT / ".venv/proto/bin/python", "-m", "grpc_tools.protoc")

LOWER_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
UPPER_SNAKE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")
VERSIONED = re.compile(r"[a-z][a-z0-9_.]*\.v[1-9][0-9]*")


@dataclass(frozen=True)
class Violation:
    """One rule broken at one place."""

    path: str
    line: int
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.sentence}"


def lint(directory: Path) -> list[Violation]:
    """All violations of the .proto files below a directory, which is also their import root.

    Raises RuntimeError with protoc's message where a file does not compile, and where there is no file at all.
    """
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*.proto"))
    if not names:
        raise RuntimeError(f"no .proto files below {directory}")
    return [violation for file in _compile(directory, names).file for violation in _File(file).violations()]


def main(arguments: Sequence[str]) -> int:
    """Prints the violations; the exit code says whether there were any."""
    directory = Path(arguments[0]) if arguments else ROOT / "proto"
    found = lint(directory)
    for violation in found:
        print(violation)
    return 1 if found else 0


def _compile(directory: Path, names: Sequence[str]) -> FileDescriptorSet:
    if not PROTOC[0].exists():
        raise RuntimeError(f"{PROTOC[0]} is missing: run `make .venv/proto/.ready`")
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set.binpb"
        command = [*PROTOC, f"--proto_path={directory}", "--include_source_info", f"--descriptor_set_out={out}", *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"protoc refused {directory}: {done.stderr.strip()}")
        return FileDescriptorSet.FromString(out.read_bytes())


class _File:
    """One file's rules. Paths are those of SourceCodeInfo: field numbers of descriptor.proto and indexes, in turn."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._places = {tuple(place.path): place for place in file.source_code_info.location}

    def violations(self) -> Iterator[Violation]:
        file = self._file
        package_path = (2,)
        if file.syntax != "proto3":
            yield self._at((), "syntax must be proto3.")
        if not VERSIONED.fullmatch(file.package):
            yield self._at(package_path, f"package {file.package!r} must end in a version, such as .v1.")
        if file.package.replace(".", "/") != file.name.rpartition("/")[0]:
            yield self._at(package_path, f"package {file.package!r} does not match the directory of {file.name}.")
        stem = file.name.rpartition("/")[2].removesuffix(".proto")
        if not LOWER_SNAKE.fullmatch(stem):
            yield self._at((), f"file name {stem!r} must be lower_snake_case.")
        yield from self._comment(package_path, f"package {file.package}")
        for index in (*file.public_dependency, *file.weak_dependency):
            yield self._at((3, index), f"import of {file.dependency[index]} must be neither public nor weak.")
        for i, message in enumerate(file.message_type):
            yield from self._message((4, i), message)
        for i, enum in enumerate(file.enum_type):
            yield from self._enum((5, i), enum)
        for i, service in enumerate(file.service):
            yield from self._service((6, i), service)

    def _message(self, path: tuple[int, ...], message: DescriptorProto) -> Iterator[Violation]:
        if message.options.map_entry:
            return
        yield from self._comment(path, f"message {message.name}")
        if not PASCAL.fullmatch(message.name):
            yield self._at(path, f"message {message.name} must be PascalCase.")
        for i, field in enumerate(message.field):
            yield from self._field((*path, 2, i), message, field)
        for i, oneof in enumerate(message.oneof_decl):
            if oneof.name.startswith("_"):
                continue  # protoc's own, around an `optional` field
            yield from self._comment((*path, 8, i), f"oneof {message.name}.{oneof.name}")
            if not LOWER_SNAKE.fullmatch(oneof.name):
                yield self._at((*path, 8, i), f"oneof {oneof.name} must be lower_snake_case.")
        for i, nested in enumerate(message.nested_type):
            yield from self._message((*path, 3, i), nested)
        for i, enum in enumerate(message.enum_type):
            yield from self._enum((*path, 4, i), enum)

    def _field(
        self, path: tuple[int, ...], message: DescriptorProto, field: FieldDescriptorProto
    ) -> Iterator[Violation]:
        yield from self._comment(path, f"field {message.name}.{field.name}")
        if not LOWER_SNAKE.fullmatch(field.name):
            yield self._at(path, f"field {message.name}.{field.name} must be lower_snake_case.")

    def _enum(self, path: tuple[int, ...], enum: EnumDescriptorProto) -> Iterator[Violation]:
        yield from self._comment(path, f"enum {enum.name}")
        if not PASCAL.fullmatch(enum.name):
            yield self._at(path, f"enum {enum.name} must be PascalCase.")
        if enum.options.allow_alias:
            yield self._at(path, f"enum {enum.name} must not allow aliases.")
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        for i, value in enumerate(enum.value):
            value_path = (*path, 2, i)
            yield from self._comment(value_path, f"enum value {value.name}")
            if not UPPER_SNAKE.fullmatch(value.name):
                yield self._at(value_path, f"enum value {value.name} must be UPPER_SNAKE_CASE.")
            if not value.name.startswith(prefix):
                yield self._at(value_path, f"enum value {value.name} must begin with {prefix}.")
            if value.number == 0 and value.name != f"{prefix}UNSPECIFIED":
                yield self._at(value_path, f"the zero value of {enum.name} must be {prefix}UNSPECIFIED.")

    def _service(self, path: tuple[int, ...], service: ServiceDescriptorProto) -> Iterator[Violation]:
        yield from self._comment(path, f"service {service.name}")
        if not PASCAL.fullmatch(service.name) or not service.name.endswith("Service"):
            yield self._at(path, f"service {service.name} must be PascalCase and end in Service.")
        used: dict[str, str] = {}
        for i, method in enumerate(service.method):
            method_path = (*path, 2, i)
            yield from self._comment(method_path, f"rpc {method.name}")
            if not PASCAL.fullmatch(method.name):
                yield self._at(method_path, f"rpc {method.name} must be PascalCase.")
            for kind, full_name in (("Request", method.input_type), ("Response", method.output_type)):
                name = full_name.rpartition(".")[2]
                if name not in {f"{method.name}{kind}", f"{service.name}{method.name}{kind}"}:
                    yield self._at(method_path, f"rpc {method.name} must use {method.name}{kind}, not {name}.")
                if full_name in used:
                    yield self._at(method_path, f"rpc {method.name} shares {name} with rpc {used[full_name]}.")
                used[full_name] = method.name

    def _comment(self, path: tuple[int, ...], what: str) -> Iterator[Violation]:
        place = self._places.get(path)
        if place is None or not place.leading_comments.strip():
            yield self._at(path, f"{what} needs a comment above it.")

    def _at(self, path: tuple[int, ...], sentence: str) -> Violation:
        place = self._places.get(path)
        return Violation(self._file.name, place.span[0] + 1 if place else 1, sentence)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

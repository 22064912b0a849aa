"""A service with secrets wherever a service has them, until its standard input ends: for captures of incidents.

Their values come by the environment, so that the test knows what must not be found. Prints `ready` when its state can
be asked for.
"""

import asyncio
import json
import logging
import os
import sys
import threading

import glassbottom

SECRETS = json.loads(os.environ["CANARIES"])
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
log = logging.getLogger("shop.payments")


async def waits(event: asyncio.Event) -> None:
    await event.wait()


def requests() -> None:
    """What careless code logs."""
    log.info("GET https://admin:%s@shop.example/orders", SECRETS["url"])
    log.info("headers: {'Authorization': 'Bearer %s', 'X-Request-Id': '7'}", SECRETS["bearer"])
    log.warning("payment by card %s of %s failed", SECRETS["card"], SECRETS["mail"])
    log.info('body: {"user": "ann", "password": "%s"}', SECRETS["password"])
    log.info("aws key %s", SECRETS["aws"])
    for number in range(50):
        log.info("order %d paid in %d ms", number, 7 * number)
    try:
        raise ValueError(f"token={SECRETS['token']} was refused")
    except ValueError:
        log.exception("payment failed")


async def main() -> None:
    event = asyncio.Event()
    waiting = [asyncio.create_task(waits(event), name=f"waiter {number}") for number in range(5)]
    await asyncio.sleep(0)
    requests()
    print("ready", flush=True)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True).start()
    await ended.wait()
    for task in waiting:
        task.cancel()


glassbottom.init(service="checkout", snapshot_interval_s=0.5, asyncio_interval_s=0.5)
asyncio.run(main())

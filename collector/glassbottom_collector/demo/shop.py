"""The watched application of the demonstration: a small shop with one leak and one healthy cache.

It is written as an application of a user's would be, and knows nothing of being measured but one line. The leak: a
WebSocket session registers a handler when it begins and nobody removes it when the client disconnects, so the handler
holds the session, and the session its copy of the catalogue.
"""

import asyncio
import json
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import glassbottom
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

glassbottom.init(service="shop")

PRODUCTS = 2400
PAGES_MAX = 200
EVENTS_WAITING_MAX = 32

Event = dict[str, object]


def catalogue() -> list[dict[str, object]]:
    """The shop's products, the same every time."""
    chance = random.Random(7)  # noqa: S311
    words = ["oak", "ash", "linen", "brass", "wool", "slate", "cork", "glass"]
    return [
        {
            "sku": f"SKU-{number:06d}",
            "name": f"{chance.choice(words)} {chance.choice(words)} no. {number}",
            "price_eur": round(chance.uniform(1, 500), 2),
            "stock": chance.randrange(1000, 9000),
            "tags": [chance.choice(words), f"shelf-{number % 97}", f"supplier-{number % 41}"],
            "size_cm": {"width": chance.random() * 100, "height": chance.random() * 100, "depth": chance.random() * 50},
        }
        for number in range(PRODUCTS)
    ]


CATALOGUE = catalogue()
CATALOGUE_JSON = json.dumps(CATALOGUE)

# Whoever wants to hear of price changes. Sessions add themselves; this is where they stay for ever.
HANDLERS: list[Callable[[Event], None]] = []


class Session:
    """One customer looking at the shop, with prices of their own."""

    def __init__(self, discount: float) -> None:
        self.products = json.loads(CATALOGUE_JSON)
        self.discount = discount
        self.waiting: asyncio.Queue[Event] = asyncio.Queue(EVENTS_WAITING_MAX)
        HANDLERS.append(self.on_price)

    def on_price(self, event: Event) -> None:
        """Keeps a change for the client; a slow client loses changes, not the shop its memory."""
        with suppress(asyncio.QueueFull):
            self.waiting.put_nowait(event)


class Pages:
    """The most recently used product pages, PAGES_MAX at most: a cache that fills and then stays as large as it is."""

    def __init__(self) -> None:
        self._pages: OrderedDict[int, list[str]] = OrderedDict()

    def get(self, number: int) -> list[str]:
        """The lines of a product's page."""
        page = self._pages.pop(number, None)
        if page is None:
            page = [f"<tr><td>{number}</td><td>{line}</td><td>{'*' * (line % 60)}</td></tr>" for line in range(400)]
        self._pages[number] = page
        if len(self._pages) > PAGES_MAX:
            self._pages.popitem(last=False)
        return page


PAGES = Pages()


async def change_prices() -> None:
    """Somewhere a price changes, twice a second."""
    for change in range(1_000_000_000):
        await asyncio.sleep(0.5)
        product = CATALOGUE[change % PRODUCTS]
        for handler in HANDLERS:
            handler({"kind": "price", "sku": product["sku"], "price_eur": product["price_eur"]})


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Prices change as long as the shop is open."""
    changing = asyncio.create_task(change_prices())
    yield
    changing.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, bool]:
    """Whether the shop is open."""
    return {"open": True}


@app.get("/products/{number}")
async def product_page(number: int) -> dict[str, object]:
    """One page, from the cache."""
    return {"number": number, "bytes": sum(map(len, PAGES.get(number)))}


@app.post("/orders")
async def order(lines: list[dict[str, float]]) -> dict[str, float]:
    """Adds up an order and keeps nothing of it."""
    priced = [{**line, "total": line["price_eur"] * line["pieces"]} for line in lines]
    return {"total_eur": sum(line["total"] for line in priced)}


@app.websocket("/ws")
async def follow(websocket: WebSocket) -> None:
    """A customer's session: what is in the shop, then its changes."""
    await websocket.accept()
    session = Session(discount=0.1)
    await websocket.send_json({"kind": "welcome", "products": len(session.products)})
    with suppress(WebSocketDisconnect):
        while True:
            await websocket.send_json(await session.waiting.get())

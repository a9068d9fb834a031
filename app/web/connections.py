"""How many connections the page's server holds, so that visitors get in though somebody holds thousands open and says nothing."""

import asyncio

PER_ADDRESS, IN_ALL = 100, 1000  # connections; a browser opens at most six a tab
SILENT = 20  # seconds in which a connection must ask for something


def limited(base: type[asyncio.Protocol], per_address: int = PER_ADDRESS, in_all: int = IN_ALL, silent: float = SILENT) -> type:
    """uvicorn's protocol `base` for a server whose connections are limited, by address and in all.

    One that has no request under way is closed after `silent` seconds, and is the first to go, the oldest before the others, when a new one
    is too many. Where all have one under way, the new one is closed.
    """
    everybody: dict[asyncio.Protocol, None] = {}  # in the order in which they came
    by_address: dict[str, dict[asyncio.Protocol, None]] = {}

    class Limited(base):
        def connection_made(self, transport):
            super().connection_made(transport)
            self.address = str((transport.get_extra_info("peername") or ("",))[0])
            self.since = self.loop.time()
            for group, most in ((by_address.get(self.address, {}), per_address), (everybody, in_all)):
                if len(group) >= most:
                    oldest = next((one for one in group if one.is_silent()), None)
                    if oldest is None:
                        transport.abort()
                        return
                    oldest.drop()
            everybody[self] = None
            by_address.setdefault(self.address, {})[self] = None
            self.check()

        def is_silent(self) -> bool:
            """Whether no request is under way."""
            return self.cycle is None or self.cycle.response_complete

        def check(self):
            """Close it if it has been silent for too long, else look again later."""
            left = self.since + silent - self.loop.time() if self.is_silent() else silent
            if left <= 0:
                self.drop()
            else:
                self.timer = self.loop.call_later(left, self.check)

        def on_response_complete(self):
            self.since = self.loop.time()
            super().on_response_complete()

        def drop(self):
            self.transport.abort()
            self.leave()

        def leave(self):
            if everybody.pop(self, self) is None:
                self.timer.cancel()
                by_address[self.address].pop(self)
                if not by_address[self.address]:
                    del by_address[self.address]

        def connection_lost(self, error):
            self.leave()
            super().connection_lost(error)

    return Limited

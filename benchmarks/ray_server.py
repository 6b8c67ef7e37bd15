"""A FakeGemini in a process of its own, for clusters to call: prints its URL, then serves."""

from __future__ import annotations

import argparse
import json

import anyio

from genbatch.testing import Call, FakeGemini, Fault


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray_server", description=__doc__)
    parser.add_argument("--latency", type=float, default=0.3)
    parser.add_argument("--quota", default=None)
    parser.add_argument("--refuse-from", type=int, default=None, help="number of the first 403")
    options = parser.parse_args()

    def fault(call: Call) -> Fault | None:
        refused = options.refuse_from is not None and call.number == options.refuse_from
        print(json.dumps([anyio.current_time(), call.prompt, refused]), flush=True)
        return Fault(status=403) if refused else None

    async def serve() -> None:
        async with FakeGemini(
            latency=options.latency, image_size=48, quota=options.quota, faults=fault
        ) as server:
            print(server.url, flush=True)
            await anyio.sleep_forever()

    anyio.run(serve)


if __name__ == "__main__":
    main()

"""Clients of labgrid's coordinator, by the stubs that labgrid ships: `clients.py ADDRESS FIRST MOST`, numbered from FIRST.

For each line "COUNT SECONDS" on stdin, that many clients acquire and release a place of their own for so long; the answer is a line
"PAIRS SECONDS". Each client has a connection and a session, as the coordinator demands; it asks for no updates, and drops
those that come all the same. The places have no resources, so that nothing is asked of an exporter.
"""

import asyncio
import sys
import time

import grpc
from labgrid.remote.generated import labgrid_coordinator_pb2 as pb
from labgrid.remote.generated import labgrid_coordinator_pb2_grpc as rpc


class Client:
    def __init__(self, address, number):
        # One connection each: the coordinator tells clients apart by it.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.stub = rpc.CoordinatorStub(self.channel)
        self.name = f"bench/{number}"
        self.place = f"place-{number}"
        self.synced = asyncio.Event()
        self.leaving = asyncio.Event()

    async def said(self):
        hello = pb.ClientInMessage()
        hello.startup.version = "26.0.1"
        hello.startup.name = self.name
        yield hello
        sync = pb.ClientInMessage()
        sync.sync.id = 1
        yield sync
        await self.leaving.wait()

    async def hear(self):
        async for message in self.stub.ClientStream(self.said()):
            if message.HasField("sync"):
                self.synced.set()

    async def join(self):
        self.hearing = asyncio.create_task(self.hear())
        await asyncio.wait_for(self.synced.wait(), 20)

    async def leave(self):
        self.leaving.set()
        self.hearing.cancel()
        await asyncio.gather(self.hearing, return_exceptions=True)
        await self.channel.close()

    async def add_place(self):
        await self.stub.AddPlace(pb.AddPlaceRequest(name=self.place))

    async def pairs(self, until):
        done = 0
        acquire, release = pb.AcquirePlaceRequest(placename=self.place), pb.ReleasePlaceRequest(placename=self.place)
        while time.perf_counter() < until:
            await self.stub.AcquirePlace(acquire, timeout=20)
            await self.stub.ReleasePlace(release, timeout=20)
            done += 1
        return done


async def work(address, first, count, seconds):
    # No more sessions than clients that are counted: every session is told of every change.
    clients = [Client(address, first + number) for number in range(count)]
    await asyncio.gather(*(client.join() for client in clients))
    started = time.perf_counter()
    done = await asyncio.gather(*(client.pairs(started + seconds) for client in clients))
    took = time.perf_counter() - started
    await asyncio.gather(*(client.leave() for client in clients))
    return sum(done), took


async def main():
    address, first, most = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    clients = [Client(address, first + number) for number in range(most)]
    for client in clients:
        await client.add_place()
        await client.channel.close()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        count, seconds = line.split()
        pairs, took = await work(address, first, int(count), float(seconds))
        print(pairs, f"{took:.6f}", flush=True)


asyncio.run(main())

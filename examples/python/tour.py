#!/usr/bin/env python3
"""Leases a host, runs commands on it and gives it back, with stock gRPC for Python and generated code.

    python3 -m venv .venv && .venv/bin/pip install grpcio grpcio-status grpcio-tools
    mkdir -p gen && .venv/bin/python -m grpc_tools.protoc -I proto --python_out=gen --grpc_python_out=gen \\
        proto/drydock/v1/*.proto
    DRYDOCK_ADDR=unix:$XDG_RUNTIME_DIR/drydock/drydock.sock PYTHONPATH=gen .venv/bin/python examples/python/tour.py
"""

import os
import sys
from contextlib import closing
from datetime import timedelta

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from drydock.v1 import command_service_pb2 as command
from drydock.v1 import command_service_pb2_grpc as command_grpc
from drydock.v1 import lease_service_pb2 as lease
from drydock.v1 import lease_service_pb2_grpc as lease_grpc


def connect(address):
    """A channel to unix:/path, to http://127.0.0.1:7420, or to https://host:7420."""
    if address.startswith("https://"):
        # Without DRYDOCK_CA_FILE it is up to gRPC whose certificates are believed.
        authority = None
        if os.environ.get("DRYDOCK_CA_FILE"):
            with open(os.environ["DRYDOCK_CA_FILE"], "rb") as file:
                authority = file.read()
        return grpc.secure_channel(address.removeprefix("https://"), grpc.ssl_channel_credentials(authority))
    # gRPC would send the socket's path as authority, which the server's HTTP/2 library refuses.
    options = [("grpc.default_authority", "localhost")] if address.startswith("unix:") else []
    return grpc.insecure_channel(address.removeprefix("http://"), options)


def credentials():
    """The caller's token; none is needed on the socket, where the system says who calls."""
    token = os.environ.get("DRYDOCK_TOKEN", "")
    if not token and "DRYDOCK_TOKEN_FILE" in os.environ:
        with open(os.environ["DRYDOCK_TOKEN_FILE"], encoding="ascii") as file:
            token = file.read().strip()
    return [("authorization", f"Bearer {token}")] if token else []


def reason(error):
    """What to branch on: the reason in the details that every status of Drydock carries."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return error.code().name, {}


def main():
    with closing(connect(os.environ["DRYDOCK_ADDR"])) as channel:
        leases = lease_grpc.LeaseServiceStub(channel)
        commands = command_grpc.CommandServiceStub(channel)
        mine = {"metadata": credentials(), "timeout": 60}

        wanted = lease.AcquireLeaseRequest(
            resource_type="host", ttl=timedelta(minutes=10), wait=timedelta(seconds=30), labels={"job": "tour"}
        )
        host = leases.AcquireLease(wanted, **mine).lease
        print("acquired", lease.Lease.State.Name(host.state))
        try:
            for change in leases.WatchLease(
                lease.WatchLeaseRequest(lease_id=host.id, until=lease.Lease.STATE_ACTIVE), **mine
            ):
                if change.HasField("lease"):
                    print("watched", lease.Lease.State.Name(change.lease.state))

            request = command.ExecRequest(
                lease_id=host.id, command=command.Command(argv=["tr", "a-z", "A-Z"]), stdin=b"hello\n"
            )
            for frame in commands.Exec(request, **mine):
                match frame.WhichOneof("frame"):
                    case "output":
                        sys.stdout.write(frame.output.data.decode())
                    case "exited":
                        print("exit code", frame.exited.exit_code)

            request = command.ExecRequest(
                lease_id=host.id, command=command.Command(shell="echo no >&2; exit 3"), check=True
            )
            try:
                for frame in commands.Exec(request, **mine):
                    pass
            except grpc.RpcError as error:
                why, more = reason(error)
                print("checked", why, more.get("exit_code"))
        finally:
            ended = leases.ReleaseLease(
                lease.ReleaseLeaseRequest(lease_id=host.id, wait=timedelta(seconds=30)), **mine
            ).lease
            print("released", lease.Lease.State.Name(ended.state))


if __name__ == "__main__":
    main()

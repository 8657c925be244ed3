"""A real S3 server for tests: moto in a process of its own, which checks signatures and permissions."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final

import boto3

REGION: Final = "us-east-1"
_PORT = re.compile(rb"Running on http://127\.0\.0\.1:(\d+)")
_UNCHECKED: Final = 4  # the first requests, which set up the user and the bucket
_POLICY: Final = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


@dataclass
class S3Server:
    """`access_key` and `secret` may do everything in S3; nobody else may do anything."""

    process: subprocess.Popen[bytes]
    url: str
    access_key: str = ""
    secret: str = ""

    def pause(self) -> None:
        """The server hangs: it takes connections and does not answer."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def s3_server(bucket: str) -> Iterator[S3Server]:
    """A server with one bucket."""
    environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": str(_UNCHECKED), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    try:
        yield _set_up(process, bucket)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def _set_up(process: subprocess.Popen[bytes], bucket: str) -> S3Server:
    assert process.stderr is not None
    found = next((match for line in process.stderr if (match := _PORT.search(line))), None)
    assert found is not None, "the server ended"
    Thread(target=process.stderr.read, daemon=True).start()  # so that it never waits for somebody to read its log
    url = f"http://127.0.0.1:{int(found[1])}"

    def client(service: str) -> Any:
        anybody = {"aws_access_key_id": "setup", "aws_secret_access_key": "setup"}
        return boto3.client(service, endpoint_url=url, region_name=REGION, **anybody)

    users = client("iam")
    users.create_user(UserName="node")
    users.put_user_policy(UserName="node", PolicyName="all", PolicyDocument=json.dumps(_POLICY))
    key = users.create_access_key(UserName="node")["AccessKey"]
    client("s3").create_bucket(Bucket=bucket)
    return S3Server(process, url, key["AccessKeyId"], key["SecretAccessKey"])

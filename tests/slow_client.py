"""An unmodified HTTP client that reads at a limited rate, so that a move falls into its download.

`python -c SCRIPT URL BYTES_PER_SECOND` prints after each read how much has come, at the end the SHA-256 of it, and ends
with 0 if it was as much as the server announced. Its sleep is the rate limit, which SIGUSR1 takes off: a test says so
when all that has to fall into the download is over, however slow the machine is.
"""

SCRIPT = """
import hashlib, signal, sys, time, urllib.request
url, rate = sys.argv[1], float(sys.argv[2])
def unlimited(*_):
    global rate
    rate = float("inf")
signal.signal(signal.SIGUSR1, unlimited)
start, received, digest = time.monotonic(), 0, hashlib.sha256()
with urllib.request.urlopen(url, timeout=30) as answer:
    expected = int(answer.headers["Content-Length"])
    while data := answer.read(65536):
        received += len(data)
        digest.update(data)
        print(received, flush=True)
        time.sleep(max(0.0, received / rate - (time.monotonic() - start)))
print(digest.hexdigest(), flush=True)
sys.exit(received != expected)
"""

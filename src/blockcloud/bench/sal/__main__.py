"""A server process of the benchmark: `python -m blockcloud.bench.sal ROLE [ARGUMENT...]`."""

import sys

from blockcloud.bench.sal.servers import serve

serve(sys.argv[1], sys.argv[2:])

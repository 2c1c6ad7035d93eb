"""``TgiServer`` as a program with the launcher's flags; ends in order on SIGTERM."""

import argparse
import signal

from client.tgi_server import TgiServer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options, _ = parser.parse_known_args()
    with TgiServer(port=options.port):
        signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main()

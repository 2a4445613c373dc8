"""The program behind LlamaServer: the real llama.cpp HTTP server, which the xllamacpp wheel embeds.

python -m bench.rig.llama_server --model FILE --port PORT [--slots 2] [--context 2048] ...
"""

import argparse
import signal
import threading

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.rig.llama_server", description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=2, help="requests served at the same time")
    parser.add_argument("--context", type=int, default=2048, help="longest sequence of one slot [tokens]")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    parser.add_argument("--http-threads", type=int, default=64, help="connections served at the same time")
    parser.add_argument("--cache", type=int, default=256, help="for prompts that left their slot [MiB]")
    parser.add_argument("--no-metrics", action="store_true", help="answer 501 on /metrics")
    parser.add_argument("--api-key", help="ask for it everywhere but on /health")
    arguments = parser.parse_args()

    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments.model
    parameters.hostnames = [arguments.host]
    parameters.port = arguments.port
    parameters.n_parallel = arguments.slots
    parameters.n_ctx = arguments.context * arguments.slots
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.n_threads_http = arguments.http_threads
    parameters.endpoint_metrics = not arguments.no_metrics
    parameters.endpoint_slots = True
    parameters.cache_ram_mib = arguments.cache
    parameters.warmup = False
    parameters.ui = False
    if arguments.api_key:
        parameters.api_keys = [arguments.api_key]

    # The server's threads keep this one from ending in order, and there is nothing to save: the system
    # ends it at once, busy or not.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    server = xllamacpp.Server(parameters)
    print("listening on", server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

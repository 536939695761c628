"""`python -m gateway.simulators openai|vllm`."""

from gateway.simulators.command import simulate_app

if __name__ == "__main__":
    simulate_app(prog_name="tollway simulate")

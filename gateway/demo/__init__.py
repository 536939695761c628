"""The demo: simulated GPT-4o and Llama 4 servers, a gateway before them, and traffic of four features."""

"""Bodies that would hold the event loop up are read and classified in a process of their own."""

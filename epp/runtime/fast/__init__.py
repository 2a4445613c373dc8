"""Our own HTTP/2 and gRPC server, for few long-lived connections with very many short streams."""

"""The gRPC doors: decant.v1 and tei.v1, health and reflection, on grpc.aio."""

"""Traces of frames and requests, and metrics, sent by OTLP: the protocol of OpenTelemetry."""

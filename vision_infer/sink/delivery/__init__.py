"""Delivery to other systems: a queue on the disk, and the transports: MQTT, message buses and webhook."""

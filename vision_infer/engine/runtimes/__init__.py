"""The runtimes: each module opens a deployment graph in one of them."""

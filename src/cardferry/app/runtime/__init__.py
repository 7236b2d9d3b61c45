"""What every long-running command needs: paths, signals, logs, sockets to serve at, processes to start."""

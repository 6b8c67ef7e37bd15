"""What several tests use: servers, clocks, folders, processes."""

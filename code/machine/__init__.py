"""What surrounds the work: processor, cluster, files, errors."""

"""Where images come from: the official files, the download, arrays, pictures, shapes."""

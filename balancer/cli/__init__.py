"""The command line: thin over the library. It needs the extra `cli`."""

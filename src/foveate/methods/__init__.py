"""One paper a file; `foveate.all_methods` finds every module in this folder, nothing lists them."""

"""Path patching: path sets as values, and the engines that evaluate them."""

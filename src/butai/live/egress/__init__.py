"""The engines that carry outputs, behind one port. Picked by `butai.cli` alone."""

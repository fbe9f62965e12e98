"""The engines that carry outputs, behind one port. Only `butai.cli` names them."""

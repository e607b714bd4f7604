"""The network: blocks, masks, the weight-sharing supernet."""

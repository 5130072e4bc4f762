"""Every build proves its answers: parts on probes, the network node by node, pictures against the file as it was given."""

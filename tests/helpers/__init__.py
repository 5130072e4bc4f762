"""What tests share: stages of the golden detector, small graphs, the command line, exports, oracles."""

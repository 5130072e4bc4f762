"""Optional ways into the compiler from training frameworks; nothing here is needed to compile a graph."""

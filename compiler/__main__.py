"""python -m onnxgraft."""

from onnxgraft.cli.start import main

if __name__ == "__main__":
    main()

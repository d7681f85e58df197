"""What setup.py decides with: switches, toolkit, architectures, output. Knows no torch, compiles nothing."""

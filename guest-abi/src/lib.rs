//! What the image, its init and the VMM agree on: manifest, ports, wire formats.

//! A boot bank: marker, boot.cfg, and which bank boots next.

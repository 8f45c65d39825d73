//! PID 1 of the rescue image.

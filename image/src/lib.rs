//! Builder of the rescue images.

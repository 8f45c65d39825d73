//! The three media of an image, each put together from the same parts: the ISO, the USB image and the netboot tree.

pub mod fat;
pub mod frame;
pub mod iso;
pub mod iso9660;
pub mod netboot;
pub mod usb;

//! One report model, as console text and as JSON.

//! Subresources that are more than a part of their object. `status` and
//! `finalize` are: see [`crate::call::Part`].

pub(crate) mod binding;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod token;

#[cfg(test)]
mod tests;

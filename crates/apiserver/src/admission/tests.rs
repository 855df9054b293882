//! What each plugin says and does, through the whole write path.

mod accounts;
mod priorities;
mod requests;

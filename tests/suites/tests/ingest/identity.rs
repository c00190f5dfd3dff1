//! Which row a CRM record goes with.

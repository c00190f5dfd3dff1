//! What a request is for, and how urgent it is.

use std::sync::Arc;

use crm_domain::budget::Priority;

#[derive(Clone, Debug)]
pub struct RequestContext {
    pub priority: Priority,
    /// Maps take turns within a priority. `None`: of no map.
    pub map_id: Option<i32>,
    /// The caller's own id for it, passed on to a broker.
    pub correlation_id: Option<Arc<str>>,
    /// Of the round that it is a part of, passed on as well.
    pub operation_id: Option<Arc<str>>,
}

impl RequestContext {
    pub fn new(priority: Priority) -> RequestContext {
        RequestContext {
            priority,
            map_id: None,
            correlation_id: None,
            operation_id: None,
        }
    }

    pub fn of_map(priority: Priority, map_id: i32) -> RequestContext {
        RequestContext {
            map_id: Some(map_id),
            ..RequestContext::new(priority)
        }
    }
}

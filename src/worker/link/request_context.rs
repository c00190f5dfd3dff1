//! What a request is for.

use std::sync::Arc;

use crm_domain::budget::Lane;

#[derive(Clone, Debug)]
pub struct RequestContext {
    pub lane: Lane,
    /// Maps take turns within a lane. `None`: of no map.
    pub map_id: Option<i32>,
    /// The caller's own word for it, which a broker is told.
    pub correlation_id: Option<Arc<str>>,
}

impl RequestContext {
    pub fn new(lane: Lane) -> RequestContext {
        RequestContext {
            lane,
            map_id: None,
            correlation_id: None,
        }
    }

    pub fn of_map(lane: Lane, map_id: i32) -> RequestContext {
        RequestContext {
            map_id: Some(map_id),
            ..RequestContext::new(lane)
        }
    }
}

//! The order of a link's requests: first come, first served within a priority, with one request of
//! each map in line, so that a map with a million records does not keep one with ten waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crm_domain::budget::Priority;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, OwnedMutexGuard};

use super::request_context::RequestContext;

type Queue = Arc<AsyncMutex<()>>;

#[derive(Default)]
pub struct FairQueue {
    /// The next request of each priority. Waiters get the lock in the order in which they came.
    next: [AsyncMutex<()>; Priority::COUNT],
    /// Where the other requests of a map wait while one of them is in line.
    maps: Mutex<HashMap<(Priority, i32), Queue>>,
}

/// Held by the request that goes next.
pub struct Turn<'t> {
    _next: MutexGuard<'t, ()>,
    _of_map: Option<OwnedMutexGuard<()>>,
}

impl FairQueue {
    /// Waits until it is this request's turn. Real-time ones come one by one, each from a different
    /// waiting caller.
    pub async fn take(&self, context: &RequestContext) -> Turn<'_> {
        let map_id = context
            .map_id
            .filter(|_| context.priority != Priority::RealTime);
        let of_map = match map_id {
            Some(map_id) => Some(self.of_map(context.priority, map_id).lock_owned().await),
            None => None,
        };
        Turn {
            _next: self.next[context.priority as usize].lock().await,
            _of_map: of_map,
        }
    }

    fn of_map(&self, priority: Priority, map_id: i32) -> Queue {
        let mut maps = self.maps.lock().expect("no panic under this lock");
        maps.entry((priority, map_id)).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn maps_alternate_and_each_keeps_its_order() {
        let turns = FairQueue::default();
        let came = Mutex::new(Vec::new());
        let all = (0..6).map(|n| (1, n)).chain((0..2).map(|n| (2, n)));
        let waiting = all.map(|(map_id, n)| {
            let (turns, came) = (&turns, &came);
            async move {
                let _turn = turns
                    .take(&RequestContext::of_map(Priority::Batch, map_id))
                    .await;
                tokio::task::yield_now().await;
                came.lock().unwrap().push((map_id, n));
            }
        });
        join_all(waiting).await;
        let expected = [
            (1, 0),
            (2, 0),
            (1, 1),
            (2, 1),
            (1, 2),
            (1, 3),
            (1, 4),
            (1, 5),
        ];
        assert_eq!(*came.lock().unwrap(), expected);
    }
}

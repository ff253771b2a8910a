//! A stream apart from the store, for DUMP and RESTORE.

use std::ops::ControlFlow;

use proteus_store::StoreError;

use super::groups::{Consumer, Group, Pending};
use super::{Exec, Id, Stream};
use crate::collection::Collection;
use crate::head::Kind;
use crate::rdb::{DumpedConsumer, DumpedGroup, DumpedStream};

impl Stream {
    /// The stream apart from the store.
    pub(in super::super) fn dumped(&self, x: &Exec<'_>) -> Result<DumpedStream, StoreError> {
        let parts = |Id(ms, sequence): Id| (ms, sequence);
        let entries = self.range(x, Id::default(), Id::MAX, false, usize::MAX)?;
        let mut groups = Vec::new();
        for (name, group) in self.groups(x)? {
            let mut pending = Vec::new();
            let mut owned = Vec::new();
            self.pending_between(x, &name, Id::default(), Id::MAX, &mut |id, entry| {
                pending.push((parts(id), entry.delivered_ms, entry.deliveries));
                owned.push((entry.consumer, parts(id)));
                ControlFlow::Continue(())
            })?;
            let consumers = self.consumers(x, &name)?.into_iter().map(|(name, consumer)| {
                let own = owned.iter().filter(|(owner, _)| *owner == name);
                DumpedConsumer {
                    seen_ms: consumer.seen_ms,
                    active_ms: consumer.active_ms,
                    pending: own.map(|(_, id)| *id).collect(),
                    name,
                }
            });
            let consumers = consumers.collect();
            let (last_id, entries_read) = (parts(group.last_id), group.entries_read);
            groups.push(DumpedGroup { name, last_id, entries_read, pending, consumers });
        }
        Ok(DumpedStream {
            entries: entries.into_iter().map(|(id, fields)| (parts(id), fields)).collect(),
            last_id: parts(self.last_id()),
            max_deleted_id: parts(self.max_deleted_id()),
            entries_added: self.entries_added(),
            groups,
        })
    }

    /// A stream that stands under no key yet.
    pub(in super::super) fn of_dumped(
        x: &mut Exec<'_>,
        dumped: DumpedStream,
    ) -> Result<Stream, StoreError> {
        let id = |(ms, sequence): (u64, u64)| Id(ms, sequence);
        let mut stream = Stream(Collection::fresh(Kind::Stream));
        for (entry, fields) in &dumped.entries {
            stream.0.put(x, &super::entry_place(id(*entry)), super::encode_fields(fields));
            stream.0.count += 1;
            stream.0.relieve(x)?;
        }
        stream.set_meta(id(dumped.last_id), id(dumped.max_deleted_id), dumped.entries_added);
        for group in &dumped.groups {
            let (last_id, entries_read) = (id(group.last_id), group.entries_read);
            stream.put_group(x, &group.name, Group { last_id, entries_read });
            for consumer in &group.consumers {
                let (seen_ms, active_ms) = (consumer.seen_ms, consumer.active_ms);
                let stored = Consumer { seen_ms, active_ms, pending: 0 };
                stream.put_consumer(x, &group.name, &consumer.name, stored);
                for owned in &consumer.pending {
                    let known = group.pending.iter().find(|(other, _, _)| other == owned);
                    let Some((_, delivered_ms, deliveries)) = known else { continue };
                    let pending = Pending {
                        consumer: consumer.name.clone(),
                        delivered_ms: *delivered_ms,
                        deliveries: *deliveries,
                    };
                    stream.assign(x, &group.name, id(*owned), &pending, None)?;
                }
            }
        }
        Ok(stream)
    }
}

//! Records in batches.
//!
//! The safe interface hands out one record at a time, each in an event of its own: two locks, two looks at the clock
//! and three allocations a record, which costs as much as reading a hundred bytes of JSON. The C library has a call
//! that fills an array. This module is all of our code that is not safe.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};
use std::ptr::{self, NonNull};
use std::slice::{self, SliceIndex};
use std::time::Duration;

use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::client::Client;

/// Records that are fetched at once, at most. The client fetches on for those that are in here: few, so that they are
/// little beside its queue.
const BATCH: usize = 512;

/// Records that are fetched into the processor's caches ahead of the one that is handed out: another thread made them.
const WARMED: usize = 4;

/// A record, as long as its batch lasts.
pub(super) struct Fetched<'a> {
    message: &'a sys::rd_kafka_message_t,
}

/// An error of a partition.
pub(super) struct Failure {
    /// Its topic, where the library names one.
    pub(super) topic: Option<String>,
    /// Its number.
    pub(super) partition: i32,
    /// Where what is wrong begins, where the library says so.
    pub(super) offset: Option<i64>,
    /// What it is; as a number, where this version of the library gives it no name.
    pub(super) code: Result<RDKafkaErrorCode, i32>,
}

/// What [`Batches::take`] found.
pub(super) struct Taken {
    /// Messages: records and errors.
    pub(super) count: usize,
    /// The errors. The library holds what stands where they came for handed out, but it was not: whoever goes on has to
    /// go back.
    pub(super) failures: Vec<Failure>,
}

/// A consumer whose records come in batches, of those partitions that were [routed](Batches::route) before they were
/// assigned.
pub(super) struct Batches {
    // Fields are dropped in this order: the queue belongs to the client.
    queue: Queue,
    consumer: BaseConsumer<Client>,
    room: Room,
}

/// Room for the messages of a batch. Between two calls of `take` none of these is alive.
struct Room(Vec<*mut sys::rd_kafka_message_t>);

// SAFETY: the pointers mean nothing outside `take`.
unsafe impl Send for Room {}

impl Batches {
    /// For this consumer.
    ///
    /// # Errors
    /// The library gives no queue.
    pub(super) fn new(consumer: BaseConsumer<Client>) -> Result<Batches, KafkaError> {
        // SAFETY: the client is alive. The queue is ours to destroy.
        let queue = unsafe { Queue::owned(sys::rd_kafka_queue_new(consumer.client().native_ptr())) };
        let queue = queue.ok_or_else(|| KafkaError::ClientCreation("no queue".into()))?;
        Ok(Batches { queue, consumer, room: Room(vec![ptr::null_mut(); BATCH]) })
    }

    /// The consumer: by itself it gives everything but the records of the routed partitions.
    pub(super) fn consumer(&self) -> &BaseConsumer<Client> {
        &self.consumer
    }

    /// Records of this partition come by [`take`](Batches::take) from now on. For a partition that is not assigned yet:
    /// what is fetched before would come by the consumer.
    ///
    /// # Errors
    /// There can be no such partition.
    pub(super) fn route(&self, topic: &str, partition: i32) -> Result<(), KafkaError> {
        let unknown = || KafkaError::Subscription(format!("{topic:?}/{partition} is no partition"));
        let name = CString::new(topic).map_err(|_| unknown())?;
        // SAFETY: the client is alive, and the name ends with a zero. The handle is ours to destroy, and is destroyed
        // at the end of this call; the library keeps the partition, and where its records go.
        let partition = unsafe {
            let client = self.consumer.client().native_ptr();
            Queue::owned(sys::rd_kafka_queue_get_partition(client, name.as_ptr(), partition))
        };
        let partition = partition.ok_or_else(unknown)?;
        // SAFETY: both queues are alive.
        unsafe { sys::rd_kafka_queue_forward(partition.0.as_ptr(), self.queue.0.as_ptr()) };
        Ok(())
    }

    /// Waits at most `wait` for records and hands those that are there to `each`, at most `most` and not more than are
    /// fetched at once. `go_on` is asked before they are handed out; where it refuses they are let go.
    pub(super) fn take(
        &mut self,
        most: usize,
        wait: Duration,
        go_on: impl FnOnce(&BaseConsumer<Client>) -> bool,
        mut each: impl FnMut(&Fetched<'_>),
    ) -> Taken {
        let room = &mut self.room.0;
        let most = most.min(room.len());
        let wait = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is alive, and there is room for `most` pointers.
        let count = unsafe { sys::rd_kafka_consume_batch_queue(self.queue.0.as_ptr(), wait, room.as_mut_ptr(), most) };
        // Below zero only where there is no such queue.
        let count = usize::try_from(count).unwrap_or(0).min(most);
        let mut messages = Messages { live: &room[..count] };
        let mut failures = Vec::new();
        if !go_on(&self.consumer) {
            return Taken { count, failures };
        }
        messages.warm(..WARMED);
        while let Some(message) = messages.first() {
            messages.warm(WARMED..WARMED + 1);
            // SAFETY: the message is alive. Its code is read as the number that it is: the library hands on codes of
            // brokers that it has no name for.
            match unsafe { (&raw const (*message).err).cast::<i32>().read() } {
                // SAFETY: it stays alive until it is passed, all of it was written, and this code has a name.
                0 => each(&Fetched { message: unsafe { &*message } }),
                // SAFETY: the message is alive.
                code => failures.push(unsafe { Failure::of(message, code) }),
            }
            messages.pass();
        }
        Taken { count, failures }
    }
}

impl Failure {
    /// SAFETY: the message is alive.
    unsafe fn of(message: *const sys::rd_kafka_message_t, code: i32) -> Failure {
        // SAFETY: see above.
        let (topic, partition, offset) = unsafe { ((*message).rkt, (*message).partition, (*message).offset) };
        let code = sys::rd_kafka_resp_err_t::try_from(code).map(RDKafkaErrorCode::from).map_err(|_| code);
        // SAFETY: the message holds its topic, if it has one.
        let topic = (!topic.is_null()).then(|| unsafe { topic_name(topic) }).flatten().map(str::to_owned);
        Failure { topic, partition, offset: (offset >= 0).then_some(offset), code }
    }
}

/// Its name; `None` if that is no text.
///
/// SAFETY: the topic lives as long as `'a`.
unsafe fn topic_name<'a>(topic: *mut sys::rd_kafka_topic_t) -> Option<&'a str> {
    // SAFETY: the name lives as long as the topic, ends with a zero, and is never changed.
    unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(topic)) }.to_str().ok()
}

impl Fetched<'_> {
    /// The same for all records of a topic in one batch, and for those only.
    pub(super) fn topic_mark(&self) -> usize {
        self.message.rkt as usize
    }

    /// Its topic; `None` if that is no text.
    pub(super) fn topic(&self) -> Option<&str> {
        // SAFETY: the message is alive and holds its topic.
        unsafe { topic_name(self.message.rkt) }
    }

    /// Number of its partition.
    pub(super) fn partition(&self) -> i32 {
        self.message.partition
    }

    /// Its offset.
    pub(super) fn offset(&self) -> i64 {
        self.message.offset
    }

    /// Its time stamp, milliseconds since the epoch; -1 where it has none.
    pub(super) fn timestamp_ms(&self) -> i64 {
        // SAFETY: the message is alive; where the kind of the time stamp goes may be null.
        unsafe { sys::rd_kafka_message_timestamp(self.message, ptr::null_mut()) }
    }

    /// Its key.
    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: the key is that long, and lives as long as its message.
        unsafe { bytes(self.message.key, self.message.key_len) }
    }

    /// Its payload.
    pub(super) fn payload(&self) -> Option<&[u8]> {
        // SAFETY: the payload is that long, and lives as long as its message.
        unsafe { bytes(self.message.payload, self.message.len) }
    }
}

/// SAFETY: `from` is null, or points to `length` bytes that live and stay as they are as long as `'a`.
unsafe fn bytes<'a>(from: *mut c_void, length: usize) -> Option<&'a [u8]> {
    let from = NonNull::new(from.cast::<u8>())?;
    // SAFETY: see above.
    Some(unsafe { slice::from_raw_parts(from.as_ptr(), length) })
}

/// A handle of a queue.
struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: queues of the C library may be used from any thread, and nobody else has this handle.
unsafe impl Send for Queue {}

impl Queue {
    /// SAFETY: nobody else destroys this handle, and its client outlives the result.
    unsafe fn owned(handle: *mut sys::rd_kafka_queue_t) -> Option<Queue> {
        NonNull::new(handle).map(Queue)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle is ours, and the client is alive.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// Messages of a batch that are still to be destroyed.
struct Messages<'a> {
    // Live, and ours.
    live: &'a [*mut sys::rd_kafka_message_t],
}

impl Messages<'_> {
    // Alive until it is passed.
    fn first(&self) -> Option<*const sys::rd_kafka_message_t> {
        self.live.first().map(|message| message.cast_const())
    }

    // Has the processor fetch some of them: by their place, counted from the first.
    fn warm(&self, which: impl SliceIndex<[*mut sys::rd_kafka_message_t], Output = [*mut sys::rd_kafka_message_t]>) {
        #[cfg(not(target_arch = "x86_64"))]
        let _ = which;
        #[cfg(target_arch = "x86_64")]
        for message in self.live.get(which).unwrap_or_default() {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let bytes = message.cast_const().cast::<i8>();
            // SAFETY: a prefetch is no access: it may name any address.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(bytes);
                _mm_prefetch::<_MM_HINT_T0>(bytes.wrapping_add(64));
            }
        }
    }

    fn pass(&mut self) {
        if let Some((message, rest)) = self.live.split_first() {
            self.live = rest;
            // SAFETY: it was live, is ours, and is in `live` no more.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

impl Drop for Messages<'_> {
    fn drop(&mut self) {
        while !self.live.is_empty() {
            self.pass();
        }
    }
}

//! State to exposition: every metric, as a table. The only file that names the metrics library.
//!
//! The exposition is a pure function of a [`View`]: what is not in the state cannot be in it.
//! The library encodes OpenMetrics; the classic text format is the same but for the metadata of
//! counters, where the name carries `_total`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;

use conncheck_probes::{Failure, Outcome, TlsFacts};
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::histogram::Histogram;
use crate::process::Process;
use crate::state::{Plan, Record, SkipCause, Snapshot, finished_at};

/// What is exposed.
#[derive(Debug)]
pub struct View {
    pub snapshot: Snapshot,
    pub process: Option<Process>,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format, 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Writes the exposition of `view`, family by family, so that only one of them is in memory.
pub fn render(view: &Arc<View>, format: Format, out: &mut impl io::Write) -> io::Result<()> {
    let mut text = String::new();
    for family in FAMILIES {
        text.clear();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Collected {
            family,
            view: Arc::clone(view),
        }));
        encode_registry(&mut text, &registry).map_err(io::Error::other)?;
        let is_counter = matches!(family.ty, MetricType::Counter);
        let samples = match format {
            Format::Text if is_counter => {
                let Family { name, help, .. } = family;
                writeln!(out, "# HELP {name}_total {help}")?;
                writeln!(out, "# TYPE {name}_total counter")?;
                text.splitn(3, '\n').nth(2).unwrap_or_default()
            }
            _ => &text,
        };
        out.write_all(samples.as_bytes())?;
    }
    if format == Format::OpenMetrics {
        text.clear();
        encode_eof(&mut text).map_err(io::Error::other)?;
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// One metric and all its series.
struct Family {
    /// A counter's without its `_total`, which the library adds.
    name: &'static str,
    help: &'static str,
    ty: MetricType,
    write: fn(&View, &mut MetricEncoder<'_>) -> fmt::Result,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "probe_success",
        help: "Whether the last attempt succeeded",
        ty: MetricType::Gauge,
        write: |view, out| of_last(view, out, |last| Some(i64::from(last.is_up()))),
    },
    Family {
        name: "probe_duration_seconds",
        help: "Duration of the last attempt, successful or not",
        ty: MetricType::Gauge,
        write: |view, out| of_last(view, out, |last| Some(last.duration.as_secs_f64())),
    },
    Family {
        name: "probe_phase_duration_seconds",
        help: "Duration of each phase that the last attempt reached",
        ty: MetricType::Gauge,
        write: |view, out| {
            each_last(view, |record, last| {
                last.phases.iter().try_for_each(|(phase, duration)| {
                    let labels = Labels::of(record).and("phase", phase.as_str());
                    labels.gauge(out, duration.as_secs_f64())
                })
            })
        },
    },
    Family {
        name: "probe_latency_seconds",
        help: "Durations of the successful attempts",
        ty: MetricType::Histogram,
        write: |view, out| {
            each(view, |record| {
                Labels::of(record).histogram(out, &record.latency)
            })
        },
    },
    Family {
        name: "probe_attempts",
        help: "Finished attempts",
        ty: MetricType::Counter,
        write: |view, out| {
            each(view, |record| {
                Labels::of(record).counter(out, record.attempts)
            })
        },
    },
    Family {
        name: "probe_failures",
        help: "Failed attempts by reason",
        ty: MetricType::Counter,
        write: |view, out| {
            each(view, |record| {
                record.failures.iter().try_for_each(|(reason, count)| {
                    let labels = Labels::of(record).and("reason", reason.as_str());
                    labels.counter(out, *count)
                })
            })
        },
    },
    Family {
        name: "probe_failure_reason",
        help: "Why the last attempt failed; absent when it succeeded",
        ty: MetricType::Gauge,
        write: |view, out| {
            each_failure(view, |record, failure| {
                let labels = Labels::of(record).and("reason", failure.reason.as_str());
                let phase = failure.phase.map(|phase| phase.as_str());
                labels.and_maybe("phase", phase).gauge(out, 1_i64)
            })
        },
    },
    Family {
        name: "probe_last_run_timestamp_seconds",
        help: "When the last attempt ended",
        ty: MetricType::Gauge,
        write: |view, out| of_last(view, out, |last| Some(seconds(finished_at(last)))),
    },
    Family {
        name: "probe_last_success_timestamp_seconds",
        help: "When the last successful attempt ended",
        ty: MetricType::Gauge,
        write: |view, out| of_record(view, out, |record| record.last_success.map(seconds)),
    },
    Family {
        name: "probe_consecutive_failures",
        help: "Failed attempts since the last success",
        ty: MetricType::Gauge,
        write: |view, out| {
            each_last(view, |record, _| {
                Labels::of(record).gauge(out, record.consecutive_failures)
            })
        },
    },
    Family {
        name: "probe_ssl_earliest_cert_expiry",
        help: "Earliest expiry in the certificate chain that the peer sent, verified or not",
        ty: MetricType::Gauge,
        write: |view, out| {
            let expiry = |tls: &TlsFacts| tls.earliest_expiry.map(seconds);
            of_last(view, out, |last| last.tls.as_ref().and_then(expiry))
        },
    },
    Family {
        name: "probe_tls_version_info",
        help: "The version of TLS in the last attempt",
        ty: MetricType::Gauge,
        write: |view, out| {
            each_last(view, |record, last| {
                let Some(version) = last.tls.as_ref().and_then(|tls| tls.version.as_deref()) else {
                    return Ok(());
                };
                Labels::of(record).and("version", version).gauge(out, 1_i64)
            })
        },
    },
    Family {
        name: "probe_http_status_code",
        help: "Status of the last HTTP response",
        ty: MetricType::Gauge,
        write: |view, out| of_last(view, out, |last| last.http_status.map(i64::from)),
    },
    Family {
        name: "probe_credential_expiry_timestamp_seconds",
        help: "When the credential that the last attempt used ends",
        ty: MetricType::Gauge,
        write: |view, out| of_last(view, out, |last| last.credential_expiry.map(seconds)),
    },
    Family {
        name: "connection_up",
        help: "Whether the connection is up, after rise and fall",
        ty: MetricType::Gauge,
        write: |view, out| of_record(view, out, |record| record.up.map(i64::from)),
    },
    Family {
        name: "connection_state_changes",
        help: "How often the connection went from up to down or back",
        ty: MetricType::Counter,
        write: |view, out| {
            each(view, |record| {
                Labels::of(record).counter(out, record.changes)
            })
        },
    },
    Family {
        name: "connection_interval_seconds",
        help: "How often the connection is attempted",
        ty: MetricType::Gauge,
        write: |view, out| of_plan(view, out, |plan| plan.interval.as_secs_f64()),
    },
    Family {
        name: "connection_timeout_seconds",
        help: "How long an attempt may take",
        ty: MetricType::Gauge,
        write: |view, out| of_plan(view, out, |plan| plan.timeout.as_secs_f64()),
    },
    Family {
        name: "connection_paused",
        help: "Whether the connection is paused, that is, not attempted",
        ty: MetricType::Gauge,
        write: |view, out| of_plan(view, out, |plan| i64::from(plan.paused)),
    },
    Family {
        name: "connection_info",
        help: "Where the connection goes, what answers there, and its owner's labels",
        ty: MetricType::Gauge,
        write: |view, out| {
            each(view, |record| {
                let owners = owners_labels(&record.facts.labels);
                let mut labels = Labels::of(record)
                    .and_maybe("endpoint", record.endpoint.as_deref())
                    .and_maybe("server", record.server.as_deref());
                for (name, value) in &owners {
                    labels = labels.and(name, value);
                }
                labels.gauge(out, 1_i64)
            })
        },
    },
    Family {
        name: "conncheck_build_info",
        help: "The version of this program",
        ty: MetricType::Gauge,
        write: |_, out| {
            let labels = Labels::none().and("version", env!("CARGO_PKG_VERSION"));
            let revision = option_env!("CONNCHECK_REVISION").unwrap_or("unknown");
            labels.and("revision", revision).gauge(out, 1_i64)
        },
    },
    Family {
        name: "conncheck_config_last_reload_successful",
        help: "Whether the definitions, when last read, had no mistake",
        ty: MetricType::Gauge,
        write: |view, out| out.encode_gauge(&i64::from(view.snapshot.config.successful)),
    },
    Family {
        name: "conncheck_config_last_reload_success_timestamp_seconds",
        help: "When the definitions were last read and had no mistake; 0 before the first time",
        ty: MetricType::Gauge,
        write: |view, out| {
            let last = view.snapshot.config.last_success;
            out.encode_gauge(&last.map_or(0.0, seconds))
        },
    },
    Family {
        name: "conncheck_config_invalid_connections",
        help: "Definitions that are wrong and therefore not attempted",
        ty: MetricType::Gauge,
        write: |view, out| out.encode_gauge(&view.snapshot.config.invalid),
    },
    Family {
        name: "conncheck_scheduler_attempts_in_flight",
        help: "Attempts that run now",
        ty: MetricType::Gauge,
        write: |view, out| out.encode_gauge(&view.snapshot.scheduler.in_flight),
    },
    Family {
        name: "conncheck_scheduler_lag_seconds",
        help: "From the planned to the real start of attempts",
        ty: MetricType::Histogram,
        write: |view, out| encode(&view.snapshot.scheduler.lag, out),
    },
    Family {
        name: "conncheck_scheduler_skipped_attempts",
        help: "Attempts that were due and not made",
        ty: MetricType::Counter,
        write: |view, out| {
            SkipCause::ALL.into_iter().try_for_each(|cause| {
                let labels = Labels::none().and("cause", cause.as_str());
                labels.counter(out, view.snapshot.scheduler.skipped(cause))
            })
        },
    },
    Family {
        name: "process_cpu_seconds",
        help: "CPU time of this process",
        ty: MetricType::Counter,
        write: |view, out| match &view.process {
            Some(process) => out.encode_counter::<NoLabelSet, _, f64>(&process.cpu_seconds, None),
            None => Ok(()),
        },
    },
    Family {
        name: "process_virtual_memory_bytes",
        help: "Virtual memory of this process",
        ty: MetricType::Gauge,
        write: |view, out| of_process(view, out, |process| Some(process.virtual_memory_bytes)),
    },
    Family {
        name: "process_resident_memory_bytes",
        help: "Resident memory of this process",
        ty: MetricType::Gauge,
        write: |view, out| of_process(view, out, |process| Some(process.resident_memory_bytes)),
    },
    Family {
        name: "process_open_fds",
        help: "Open file descriptors of this process",
        ty: MetricType::Gauge,
        write: |view, out| of_process(view, out, |process| Some(process.open_fds)),
    },
    Family {
        name: "process_max_fds",
        help: "How many file descriptors this process may open",
        ty: MetricType::Gauge,
        write: |view, out| of_process(view, out, |process| process.max_fds),
    },
    Family {
        name: "process_start_time_seconds",
        help: "When this process was started",
        ty: MetricType::Gauge,
        write: |view, out| of_process(view, out, |process| Some(process.start_time)),
    },
];

fn each(view: &View, write: impl FnMut(&Record) -> fmt::Result) -> fmt::Result {
    let records = view.snapshot.records.iter().map(|record| &**record);
    records.into_iter().try_for_each(write)
}

/// Every record that has been attempted.
fn each_last(view: &View, mut write: impl FnMut(&Record, &Outcome) -> fmt::Result) -> fmt::Result {
    each(view, |record| match &record.last {
        Some(last) => write(record, last),
        None => Ok(()),
    })
}

/// Every record whose last attempt failed.
fn each_failure(
    view: &View,
    mut write: impl FnMut(&Record, &Failure) -> fmt::Result,
) -> fmt::Result {
    each_last(view, |record, last| match &last.result {
        Err(failure) => write(record, failure),
        Ok(()) => Ok(()),
    })
}

/// A gauge with one series for each record that has it.
fn of_record<V: EncodeGaugeValue>(
    view: &View,
    out: &mut MetricEncoder<'_>,
    value: impl Fn(&Record) -> Option<V>,
) -> fmt::Result {
    each(view, |record| match value(record) {
        Some(value) => Labels::of(record).gauge(out, value),
        None => Ok(()),
    })
}

/// A gauge with one series for each last outcome that has it.
fn of_last<V: EncodeGaugeValue>(
    view: &View,
    out: &mut MetricEncoder<'_>,
    value: impl Fn(&Outcome) -> Option<V>,
) -> fmt::Result {
    of_record(view, out, |record| record.last.as_deref().and_then(&value))
}

fn of_plan<V: EncodeGaugeValue>(
    view: &View,
    out: &mut MetricEncoder<'_>,
    value: impl Fn(&Plan) -> V,
) -> fmt::Result {
    of_record(view, out, |record| Some(value(&record.facts.plan)))
}

fn of_process<V: EncodeGaugeValue>(
    view: &View,
    out: &mut MetricEncoder<'_>,
    value: impl Fn(&Process) -> Option<V>,
) -> fmt::Result {
    match view.process.as_ref().and_then(value) {
        Some(value) => out.encode_gauge(&value),
        None => Ok(()),
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}

fn encode(histogram: &Histogram, out: &mut MetricEncoder<'_>) -> fmt::Result {
    let (sum, count, buckets) = (histogram.sum(), histogram.count(), histogram.buckets());
    out.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

/// The owner's labels as `label_…`. Names that become the same are told apart by a number, as
/// kube-state-metrics does.
fn owners_labels(labels: &BTreeMap<String, String>) -> Vec<(String, &str)> {
    let sanitised = |name: &str| {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        format!("label_{}", name.chars().map(plain).collect::<String>())
    };
    let mut by_name: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in labels {
        by_name.entry(sanitised(name)).or_default().push(value);
    }
    let taken: Vec<_> = by_name.keys().cloned().collect();
    let mut owners = Vec::with_capacity(labels.len());
    for (name, values) in by_name {
        let [value] = values[..] else {
            let free = |name: &String| !taken.contains(name);
            let numbered = (1..).map(|n| format!("{name}_conflict{n}")).filter(free);
            owners.extend(numbered.zip(values));
            continue;
        };
        owners.push((name, value));
    }
    owners
}

/// The labels of one series.
#[derive(Clone)]
struct Labels<'a> {
    record: Option<&'a Record>,
    more: Vec<(&'a str, &'a str)>,
}

impl<'a> Labels<'a> {
    /// Of a series about one connection.
    fn of(record: &'a Record) -> Self {
        Self {
            record: Some(record),
            more: Vec::new(),
        }
    }

    /// Of a series about the program.
    fn none() -> Self {
        Self {
            record: None,
            more: Vec::new(),
        }
    }

    fn and(mut self, name: &'a str, value: &'a str) -> Self {
        self.more.push((name, value));
        self
    }

    /// A label that is empty is the same as none.
    fn and_maybe(self, name: &'a str, value: Option<&'a str>) -> Self {
        match value {
            Some(value) => self.and(name, value),
            None => self,
        }
    }

    fn gauge(&self, out: &mut MetricEncoder<'_>, value: impl EncodeGaugeValue) -> fmt::Result {
        out.encode_family(self)?.encode_gauge(&value)
    }

    fn counter(&self, out: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
        let mut out = out.encode_family(self)?;
        out.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn histogram(&self, out: &mut MetricEncoder<'_>, histogram: &Histogram) -> fmt::Result {
        encode(histogram, &mut out.encode_family(self)?)
    }
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut label = |name: &str, value: &str| {
            let mut encoder = encoder.encode_label();
            let mut key = encoder.encode_label_key()?;
            key.write_str(name)?;
            let mut out = key.encode_label_value()?;
            out.write_str(&without_nul(value))?;
            out.finish()
        };
        if let Some(record) = self.record {
            label("connection", &record.facts.id.name)?;
            label("connection_namespace", &record.facts.id.namespace)?;
            label("connection_type", record.facts.type_name)?;
        }
        self.more
            .iter()
            .try_for_each(|(name, value)| label(name, value))
    }
}

/// The formats allow a zero byte in a label value; Prometheus' own parser takes it for the end.
fn without_nul(value: &str) -> Cow<'_, str> {
    match value.contains('\0') {
        true => value.replace('\0', "\u{fffd}").into(),
        false => value.into(),
    }
}

/// What the library asks for its families.
struct Collected {
    family: &'static Family,
    view: Arc<View>,
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Family {
            name,
            help,
            ty,
            write,
        } = self.family;
        let ty = *ty;
        write(
            &self.view,
            &mut encoder.encode_descriptor(name, help, None, ty)?,
        )
    }
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.family.name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use conncheck_config::Identity;
    use conncheck_probes::{Phase, Reason};
    use jiff::SignedDuration;

    use super::*;
    use crate::state::tests::{down, facts, up};
    use crate::state::{Facts, State};

    fn exposition(state: &State, process: Option<Process>, format: Format) -> String {
        let snapshot = state.snapshot();
        let view = Arc::new(View { snapshot, process });
        let mut out = Vec::new();
        render(&view, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// One connection of each kind: up with TLS, down, never attempted, and paused.
    fn state() -> Arc<State> {
        let state = Arc::new(State::default());
        let secure = Facts {
            type_name: "http",
            endpoint: Some("https://shop:443".into()),
            labels: [("tier", "web"), ("app.io/part", "a"), ("app_io_part", "b")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            ..Facts::clone(&facts("shop", 1, 1))
        };
        let mut paused = Facts::clone(&facts("asleep", 1, 1));
        paused.plan.paused = true;
        let secure = Arc::new(secure);
        let failing = facts("failing", 1, 1);
        state.apply([
            Arc::clone(&secure),
            Arc::clone(&failing),
            facts("new", 1, 1),
            Arc::new(paused),
        ]);
        let mut outcome = up();
        outcome.duration = Duration::from_micros(12_300);
        outcome.phases = vec![
            (Phase::Connect, Duration::from_micros(300)),
            (Phase::Request, Duration::from_millis(12)),
        ];
        outcome.tls = Some(TlsFacts {
            version: Some("TLSv1.3".to_owned()),
            verified: true,
            earliest_expiry: Some(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24)),
            subject: None,
            issuer: None,
        });
        outcome.server = Some("nginx/1.22".to_owned());
        outcome.http_status = Some(200);
        outcome.credential_expiry = Some(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(2));
        state.record(&secure.id, None, outcome);
        state.record(&failing.id, Some("http://failing:80".into()), up());
        state.record(&failing.id, None, down(Reason::Timeout));
        state.skipped(SkipCause::Overrun, 3);
        drop(state.attempt_begins(Duration::from_millis(2)));
        state.config_loaded(1, false);
        state
    }

    #[test]
    fn everything_that_is_told_in_openmetrics() {
        let text = exposition(&state(), None, Format::OpenMetrics);
        insta::assert_snapshot!(text.replace(env!("CARGO_PKG_VERSION"), "0.0.0"));
    }

    #[test]
    fn the_classic_format_differs_in_the_names_of_counters_only() {
        let state = state();
        let openmetrics = exposition(&state, None, Format::OpenMetrics);
        let text = exposition(&state, None, Format::Text);
        let differ = openmetrics
            .lines()
            .zip(text.lines())
            .filter(|(a, b)| a != b);
        let differ: Vec<_> = differ.map(|(a, b)| format!("{a}\n{b}")).collect();
        insta::assert_snapshot!(differ.join("\n"));
        assert!(openmetrics.ends_with("\n# EOF\n"));
        assert_eq!(openmetrics.lines().count(), text.lines().count() + 1);
    }

    #[test]
    fn the_process_is_told_of() {
        let process = Process {
            cpu_seconds: 1.5,
            virtual_memory_bytes: 4096,
            resident_memory_bytes: 1024,
            open_fds: 9,
            max_fds: Some(1024),
            start_time: 1_763_796_000.25,
        };
        let text = exposition(&State::default(), Some(process), Format::Text);
        let lines = text.lines().filter(|line| line.starts_with("process_"));
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_removed_connection_leaves_no_series() {
        let state = state();
        state.apply([]);
        let text = exposition(&state, None, Format::Text);
        assert!(!text.contains("connection="), "{text}");
    }

    #[test]
    fn any_label_value_stays_one_value() {
        let state = State::default();
        let mut facts = Facts::clone(&facts("x", 1, 1));
        facts.id = Identity {
            namespace: "a\nb\"c\\d".to_owned(),
            name: "\u{0}é\u{1b}\r\t𝄞{},=".to_owned(),
        };
        facts.labels = [
            ("", "none"),
            ("é", "one"),
            ("ü", "two"),
            ("_conflict1", "mean"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        state.apply([Arc::new(facts)]);
        let text = exposition(&state, None, Format::Text);
        let line = text
            .lines()
            .find(|line| line.starts_with("connection_info"));
        insta::assert_snapshot!(line.unwrap().escape_debug().to_string());
    }

    proptest::proptest! {
        /// Whatever stands in a label comes back when it is read as the formats say.
        #[test]
        fn any_label_value_can_be_read_back(value: String) {
            let state = State::default();
            let mut facts = Facts::clone(&facts("x", 1, 1));
            facts.labels = [("owner".to_owned(), value.clone())].into();
            state.apply([Arc::new(facts)]);
            let text = exposition(&state, None, Format::Text);
            let info = text.split('\n').find(|line| line.starts_with("connection_info"));
            let (_, written) = info.unwrap().split_once("label_owner=\"").unwrap();
            let mut read = String::new();
            let mut chars = written.chars();
            loop {
                match chars.next().unwrap() {
                    '"' => break,
                    '\\' => read.push(match chars.next().unwrap() {
                        'n' => '\n',
                        c => c,
                    }),
                    c => read.push(c),
                }
            }
            assert_eq!(chars.as_str(), "} 1");
            assert_eq!(read, value.replace('\0', "\u{fffd}"));
        }
    }
}

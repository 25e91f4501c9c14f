import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicLong;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.AggregateFunction;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.PrimitiveArrayTypeInfo;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.api.java.tuple.Tuple4;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.fs.Path;
import org.apache.flink.formats.parquet.ParquetWriterFactory;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.sink.filesystem.bucketassigners.BasePathBucketAssigner;
import org.apache.flink.streaming.api.functions.sink.filesystem.rollingpolicies.OnCheckpointRollingPolicy;
import org.apache.flink.streaming.api.functions.windowing.ProcessWindowFunction;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;
import org.apache.parquet.hadoop.ParquetWriter;
import org.apache.parquet.hadoop.api.WriteSupport;
import org.apache.parquet.hadoop.metadata.CompressionCodecName;
import org.apache.parquet.io.OutputFile;
import org.apache.parquet.io.api.Binary;
import org.apache.parquet.io.api.RecordConsumer;
import org.apache.parquet.schema.LogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.TimeUnit;
import org.apache.parquet.schema.MessageType;
import org.apache.parquet.schema.PrimitiveType.PrimitiveTypeName;

/**
 * What {@code meterline run} does to the topic of the benchmark, as a job of Apache Flink: JSON readings of power, summed
 * as energy by series and quarter hour in event time, into Parquet files that become visible with a checkpoint.
 *
 * <p>Arguments: brokers, topic, folder of the Parquet files, folder of checkpoints, milliseconds between checkpoints,
 * parallelism, compression of Parquet, expected number of readings. It reads from the first offset to those that are last when it starts, and ends with one line of JSON:
 * milliseconds since the epoch at which the process started, the first record was read, half of them were read, and the last row
 * reached its file.
 */
public final class IngestJob {
    private static final long QUARTER_MS = 15 * 60_000L;
    /** Readings between two looks at the clock. */
    private static final int STRIDE = 1024;

    // The local cluster runs in this process: the marks of all subtasks are here.
    private static final AtomicLong FIRST_READ = new AtomicLong();
    private static final AtomicLong HALF_READ = new AtomicLong();
    private static final AtomicLong LAST_ROW = new AtomicLong();
    private static final AtomicLong READ = new AtomicLong();

    public static void main(String[] args) throws Exception {
        String brokers = args[0];
        String topic = args[1];
        Path output = new Path(args[2]);
        long checkpointMs = Long.parseLong(args[4]);
        int parallelism = Integer.parseInt(args[5]);
        CompressionCodecName compression = CompressionCodecName.valueOf(args[6].toUpperCase());
        long expected = Long.parseLong(args[7]);

        Configuration config = new Configuration();
        config.set(PipelineOptions.OBJECT_REUSE, true);
        config.set(PipelineOptions.GENERIC_TYPES, false);
        config.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        config.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofMillis(checkpointMs));
        config.set(CheckpointingOptions.CHECKPOINTING_CONSISTENCY_MODE, CheckpointingMode.EXACTLY_ONCE);
        config.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        config.set(CheckpointingOptions.CHECKPOINTS_DIRECTORY, args[3]);
        config.set(TaskManagerOptions.NETWORK_MEMORY_MIN, MemorySize.ofMebiBytes(256));
        config.set(TaskManagerOptions.NETWORK_MEMORY_MAX, MemorySize.ofMebiBytes(256));
        // Of use to RocksDB and batch jobs alone.
        config.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(8));
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(parallelism, config);
        env.setRuntimeMode(RuntimeExecutionMode.STREAMING);

        KafkaSource<Tuple3<String, Long, Double>> source = KafkaSource.<Tuple3<String, Long, Double>>builder()
                .setBootstrapServers(brokers)
                .setTopics(topic)
                .setStartingOffsets(OffsetsInitializer.earliest())
                .setBounded(OffsetsInitializer.latest())
                .setValueOnlyDeserializer(new Reading(expected))
                .setProperty("max.poll.records", "20000")
                // Larger fetches let the partitions of one reader run apart: more windows are open at once, and timers in
                // large heaps cost more than fetches (8 MiB a partition: half the rate).
                .setProperty("max.partition.fetch.bytes", "1048576")
                .setProperty("fetch.max.bytes", "4194304")
                .setProperty("receive.buffer.bytes", "1048576")
                .setProperty("check.crcs", "false")
                .setProperty("partition.discovery.interval.ms", "-1")
                .setProperty("commit.offsets.on.checkpoint", "false")
                .build();
        // A stamp is the end of its interval, and the windows of Flink do not hold their end.
        WatermarkStrategy<Tuple3<String, Long, Double>> watermarks = WatermarkStrategy
                .<Tuple3<String, Long, Double>>forBoundedOutOfOrderness(Duration.ofMinutes(15))
                .withTimestampAssigner((reading, recordTime) -> reading.f1 - 1);
        FileSink<Tuple4<String, Long, Double, Integer>> sink = FileSink
                .forBulkFormat(output, new ParquetWriterFactory<>(file -> new IntervalWriter(file)
                        .withCompressionCodec(compression)
                        .withDictionaryEncoding(false)
                        .withDictionaryEncoding("series_id", true)
                        .build()))
                .withBucketAssigner(new BasePathBucketAssigner<>())
                .withRollingPolicy(OnCheckpointRollingPolicy.build())
                .build();
        env.fromSource(source, watermarks, "readings", Types.TUPLE(Types.STRING, Types.LONG, Types.DOUBLE))
                .keyBy(reading -> reading.f0, Types.STRING)
                .window(TumblingEventTimeWindows.of(Duration.ofMillis(QUARTER_MS)))
                .aggregate(
                        new Sum(),
                        new Interval(),
                        PrimitiveArrayTypeInfo.DOUBLE_PRIMITIVE_ARRAY_TYPE_INFO,
                        PrimitiveArrayTypeInfo.DOUBLE_PRIMITIVE_ARRAY_TYPE_INFO,
                        Types.TUPLE(Types.STRING, Types.LONG, Types.DOUBLE, Types.INT))
                .sinkTo(sink);
        env.execute("ingest");

        System.out.printf(
                "{\"started_ms\": %d, \"first_read_ms\": %d, \"half_read_ms\": %d, \"last_row_ms\": %d}%n",
                ManagementFactory.getRuntimeMXBean().getStartTime(), FIRST_READ.get(), HALF_READ.get(), LAST_ROW.get());
    }

    /** JSON of a reading in kW → series, stamp in milliseconds, kWh. */
    private static final class Reading implements DeserializationSchema<Tuple3<String, Long, Double>> {
        private final long half;
        private transient JsonFactory json;
        private transient Tuple3<String, Long, Double> reading;
        private transient int sinceMark;

        Reading(long expected) {
            half = expected / 2;
        }

        @Override
        public void open(InitializationContext context) {
            json = JsonFactory.builder().enable(StreamReadFeature.USE_FAST_DOUBLE_PARSER).build();
            reading = new Tuple3<>();
        }

        @Override
        public Tuple3<String, Long, Double> deserialize(byte[] record) throws IOException {
            if (sinceMark == 0) {
                mark();
            }
            sinceMark = (sinceMark + 1) % STRIDE;
            String series = null;
            long stamp = Long.MIN_VALUE;
            double value = Double.NaN;
            try (JsonParser parser = json.createParser(record)) {
                parser.nextToken();
                while (parser.nextToken() == JsonToken.FIELD_NAME) {
                    String field = parser.currentName();
                    parser.nextToken();
                    switch (field) {
                        case "meter_id" -> series = parser.getText();
                        case "ts" -> stamp = instant(
                                parser.getTextCharacters(), parser.getTextOffset(), parser.getTextLength());
                        case "value" -> value = parser.getDoubleValue();
                        default -> parser.skipChildren();
                    }
                }
            }
            if (series == null || stamp == Long.MIN_VALUE || Double.isNaN(value)) {
                throw new IOException("not a reading: " + new String(record, StandardCharsets.UTF_8));
            }
            // One object for all: what comes next in the chain writes it into a buffer.
            reading.setFields(series, stamp, value * 0.25);
            return reading;
        }

        private void mark() {
            long now = System.currentTimeMillis();
            FIRST_READ.compareAndSet(0, now);
            long before = READ.getAndAdd(STRIDE);
            if (before < half && before + STRIDE >= half) {
                HALF_READ.set(now);
            }
        }

        @Override
        public boolean isEndOfStream(Tuple3<String, Long, Double> reading) {
            return false;
        }

        @Override
        public TypeInformation<Tuple3<String, Long, Double>> getProducedType() {
            return Types.TUPLE(Types.STRING, Types.LONG, Types.DOUBLE);
        }
    }

    /** Milliseconds of {@code 2024-01-01T00:15:00Z}; ten times as fast as the general parser of the Java library. */
    private static long instant(char[] text, int at, int length) throws IOException {
        if (length != 20 || text[at + 10] != 'T' || text[at + 19] != 'Z') {
            throw new IOException("not an instant: " + new String(text, at, length));
        }
        int year = digits(text, at, 4);
        int month = digits(text, at + 5, 2);
        int day = digits(text, at + 8, 2);
        // Days since 1970-01-01 of the Gregorian calendar, with years that begin in March.
        long shifted = month <= 2 ? year - 1 : year;
        long days = 365 * shifted + shifted / 4 - shifted / 100 + shifted / 400
                + (153 * ((month + 9) % 12) + 2) / 5 + day - 719_469;
        return ((days * 24 + digits(text, at + 11, 2)) * 60 + digits(text, at + 14, 2)) * 60_000
                + digits(text, at + 17, 2) * 1000;
    }

    private static int digits(char[] text, int at, int count) throws IOException {
        int number = 0;
        for (int i = at; i < at + count; i++) {
            int digit = text[i] - '0';
            if (digit < 0 || digit > 9) {
                throw new IOException("not a digit: " + text[i]);
            }
            number = number * 10 + digit;
        }
        return number;
    }

    /** Energy and number of the readings of a window. */
    private static final class Sum implements AggregateFunction<Tuple3<String, Long, Double>, double[], double[]> {
        @Override
        public double[] createAccumulator() {
            return new double[2];
        }

        @Override
        public double[] add(Tuple3<String, Long, Double> reading, double[] sum) {
            sum[0] += reading.f2;
            sum[1] += 1;
            return sum;
        }

        @Override
        public double[] getResult(double[] sum) {
            return sum;
        }

        @Override
        public double[] merge(double[] a, double[] b) {
            return new double[] {a[0] + b[0], a[1] + b[1]};
        }
    }

    /** A window → series, start in milliseconds, kWh, number of readings. */
    private static final class Interval
            extends ProcessWindowFunction<double[], Tuple4<String, Long, Double, Integer>, String, TimeWindow> {
        private final Tuple4<String, Long, Double, Integer> row = new Tuple4<>();

        @Override
        public void process(
                String series,
                Context window,
                Iterable<double[]> sums,
                Collector<Tuple4<String, Long, Double, Integer>> out) {
            for (double[] sum : sums) {
                row.setFields(series, window.window().getStart(), sum[0], (int) sum[1]);
                out.collect(row);
            }
        }
    }

    /** Rows as Parquet. */
    private static final class IntervalWriter
            extends ParquetWriter.Builder<Tuple4<String, Long, Double, Integer>, IntervalWriter> {
        IntervalWriter(OutputFile file) {
            super(file);
        }

        @Override
        protected IntervalWriter self() {
            return this;
        }

        @Override
        protected WriteSupport<Tuple4<String, Long, Double, Integer>> getWriteSupport(
                org.apache.hadoop.conf.Configuration configuration) {
            return new IntervalSupport();
        }
    }

    private static final class IntervalSupport extends WriteSupport<Tuple4<String, Long, Double, Integer>> {
        private static final MessageType SCHEMA = org.apache.parquet.schema.Types.buildMessage()
                .required(PrimitiveTypeName.BINARY).as(LogicalTypeAnnotation.stringType()).named("series_id")
                .required(PrimitiveTypeName.INT64).as(LogicalTypeAnnotation.timestampType(true, TimeUnit.MICROS)).named("start")
                .required(PrimitiveTypeName.INT64).as(LogicalTypeAnnotation.timestampType(true, TimeUnit.MICROS)).named("end")
                .required(PrimitiveTypeName.DOUBLE).named("value")
                .required(PrimitiveTypeName.INT32).named("count")
                .named("interval");

        private RecordConsumer consumer;
        private int sinceMark;

        @Override
        public WriteContext init(org.apache.hadoop.conf.Configuration configuration) {
            return new WriteContext(SCHEMA, java.util.Map.of());
        }

        @Override
        public void prepareForWrite(RecordConsumer consumer) {
            this.consumer = consumer;
        }

        @Override
        public void write(Tuple4<String, Long, Double, Integer> row) {
            if (sinceMark == 0) {
                LAST_ROW.accumulateAndGet(System.currentTimeMillis(), Math::max);
            }
            sinceMark = (sinceMark + 1) % (STRIDE / 16);
            consumer.startMessage();
            consumer.startField("series_id", 0);
            consumer.addBinary(Binary.fromString(row.f0));
            consumer.endField("series_id", 0);
            consumer.startField("start", 1);
            consumer.addLong(row.f1 * 1000);
            consumer.endField("start", 1);
            consumer.startField("end", 2);
            consumer.addLong((row.f1 + QUARTER_MS) * 1000);
            consumer.endField("end", 2);
            consumer.startField("value", 3);
            consumer.addDouble(row.f2);
            consumer.endField("value", 3);
            consumer.startField("count", 4);
            consumer.addInteger(row.f3);
            consumer.endField("count", 4);
            consumer.endMessage();
        }
    }

    private IngestJob() {}
}

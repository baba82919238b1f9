import test from 'ava';
import { parsePmdStats, sumPmdStats } from './pmd-stats.ts';
import { parseForwardTotals, parseLinks, parsePortStats, parseQueueStats, parseVirtioPaths } from './testpmd-output.ts';

const PORT_STATS = `
  ######################## NIC statistics for port 0  ########################
  RX-packets: 12         RX-missed: 1          RX-bytes:  768
  RX-errors: 2
  RX-nombuf:  3         
  TX-packets: 256        TX-errors: 4          TX-bytes:  16384

  Throughput (since last show)
  Rx-pps:      3203599          Rx-bps:   1640243064
  Tx-pps:      3203631          Tx-bps:   1640259320
  ############################################################################

  ######################## NIC statistics for port 1  ########################
  RX-packets: 40         RX-missed: 0          RX-bytes:  2560
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 41         TX-errors: 0          TX-bytes:  2624

  Throughput (since last show)
  Rx-pps:            0          Rx-bps:            0
  Tx-pps:            7          Tx-bps:            0
  ############################################################################
`;

test('port statistics of two ports are read apart', (t) => {
  const [first, second] = parsePortStats(PORT_STATS);
  t.deepEqual(first, {
    port: 0,
    rxPackets: 12,
    rxMissed: 1,
    rxBytes: 768,
    rxErrors: 2,
    rxNombuf: 3,
    txPackets: 256,
    txErrors: 4,
    txBytes: 16384,
    rxPps: 3203599,
    txPps: 3203631,
  });
  t.is(second?.port, 1);
  t.is(second?.rxPackets, 40);
  t.is(second?.txPps, 7);
});

test('a block without a counter is an error that shows the text', (t) => {
  t.throws(() => parsePortStats(PORT_STATS.replace('RX-nombuf', 'RX-else')), { message: /no RX-nombuf[\s\S]*RX-else/ });
});

test('the sums of stop are those over all ports', (t) => {
  const text = `
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 1              RX-dropped: 0             RX-total: 1
  TX-packets: 2              TX-dropped: 0             TX-total: 2
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 30             RX-dropped: 1             RX-total: 31
  TX-packets: 512            TX-dropped: 7             TX-total: 519
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++
`;
  t.deepEqual(parseForwardTotals(text), { rxPackets: 30, rxDropped: 1, txPackets: 512, txDropped: 7 });
});

test('link states are read in port order, and not from the header', (t) => {
  const text = `Number of available ports: 2
Port MAC Address       Name         Driver         Status   Link
0    1E:85:02:1D:B9:7F net_virtio_user0 net_virtio_user up       Unknown
1    26:06:48:F2:A5:35 net_virtio_user1 net_virtio_user down     Unknown
`;
  t.deepEqual(parseLinks(text), ['up', 'down']);
});

const PMD_STATS = `pmd thread numa_id 0 core_id 1:
  packets received: 100
  packet recirculations: 0
  avg. datapath passes per packet: 1.00
  phwol hits: 0
  mfex opt hits: 0
  simple match hits: 10
  emc hits: 20
  smc hits: 0
  megaflow hits: 60
  avg. subtable lookups per megaflow hit: 1.00
  miss with success upcall: 9
  miss with failed upcall: 1
  avg. packets per output batch: 31.98
  idle cycles: 4000 (10.00%)
  processing cycles: 36000 (90.00%)
  avg cycles per packet: 400.00 (40000/100)
  avg processing cycles per packet: 360.00 (36000/100)
main thread:
  packets received: 7
  packet recirculations: 0
  avg. datapath passes per packet: 1.00
  phwol hits: 0
  mfex opt hits: 0
  simple match hits: 0
  emc hits: 0
  smc hits: 0
  megaflow hits: 0
  avg. subtable lookups per megaflow hit: 0.00
  miss with success upcall: 7
  miss with failed upcall: 0
  avg. packets per output batch: 0.00
`;

test('PMD statistics leave the main thread out of the sum', (t) => {
  const all = parsePmdStats(PMD_STATS);
  t.deepEqual(
    all.map((stats) => stats.core),
    [1, -1],
  );
  const sum = sumPmdStats(all);
  t.is(sum.packetsReceived, 100);
  t.is(sum.simpleMatchHits, 10);
  t.is(sum.emcHits, 20);
  t.is(sum.megaflowHits, 60);
  t.is(sum.missSuccess, 9);
  t.is(sum.missFailed, 1);
  t.is(sum.idleCycles, 4000);
  t.is(sum.busyCycles, 36000);
  t.is(sum.cyclesPerPacket, 360);
});

test('counters of queues and the code that the driver runs are read by port', (t) => {
  const text = `###### NIC extended statistics for port 0 
rx_good_packets: 7
rx_q0_packets: 7
rx_q0_good_packets: 7
rx_q0_good_bytes: 448
tx_q0_good_packets: 1
tx_q0_good_bytes: 64
tx_q1_good_packets: 2
tx_q1_good_bytes: 128
###### NIC extended statistics for port 1 
rx_q0_good_packets: 3
`;
  t.deepEqual(parseQueueStats(text), [
    {
      port: 0,
      rx: [{ packets: 7, bytes: 448 }],
      tx: [
        { packets: 1, bytes: 64 },
        { packets: 2, bytes: 128 },
      ],
    },
    { port: 1, rx: [{ packets: 3, bytes: 0 }], tx: [] },
  ]);
  const log = `set_rxtx_funcs(): virtio: using packed ring vectorized Tx path on port 1
set_rxtx_funcs(): virtio: using packed ring mergeable buffer Rx path on port 1
set_rxtx_funcs(): virtio: using inorder Rx path on port 12`;
  t.deepEqual(
    parseVirtioPaths(log),
    new Map([
      [1, { rx: 'packed ring mergeable buffer', tx: 'packed ring vectorized' }],
      [12, { rx: 'inorder', tx: '' }],
    ]),
  );
});

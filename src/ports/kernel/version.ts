/** What the kernel can do that only its version tells. */
import { release } from 'node:os';

/** Whether virtio-net headers of TAP devices and packet sockets may say VIRTIO_NET_HDR_GSO_UDP_L4 (since Linux 6.2). */
export const takesDatagrams = (version = release()): boolean => {
  const [major = 0, minor = 0] = version.split(/[^0-9]/).map(Number);
  return major > 6 || (major === 6 && minor >= 2);
};

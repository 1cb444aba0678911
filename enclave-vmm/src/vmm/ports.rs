//! The guest's I/O ports: COM1, the keyboard controller as far as a reset needs it, and silence. Reads of ports that do not
//! exist give ones, as on a bus with nobody on it; PCI's 0xcf8 and the POST port 0x80 are among them on purpose.

use std::sync::Mutex;

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

use super::console::Console;
use super::layout;

/// Pulses the reset line when written to [`layout::I8042_COMMAND`].
const I8042_RESET: u8 = 0xfe;

/// COM1's interrupt line.
#[derive(Debug)]
pub struct SerialInterrupt(pub EventFd);

impl Trigger for SerialInterrupt {
    type E = std::io::Error;

    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// What a write asks of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Nothing.
    None,
    /// The guest resets itself, which ends the enclave.
    Reset,
}

/// All ports of the machine.
pub struct Ports {
    serial: Mutex<Serial<SerialInterrupt, NoEvents, Console>>,
}

impl Ports {
    /// COM1 writes into `console`.
    #[must_use]
    pub fn new(interrupt: SerialInterrupt, console: Console) -> Ports {
        Ports { serial: Mutex::new(Serial::new(interrupt, console)) }
    }

    /// `data` holds one byte of the port, or several of a string instruction.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        match port {
            layout::I8042_DATA | layout::I8042_COMMAND => data.fill(0),
            _ => match serial_register(port) {
                Some(register) => {
                    if let Ok(mut serial) = self.serial.lock() {
                        data.fill_with(|| serial.read(register));
                    }
                }
                None => data.fill(0xff),
            },
        }
    }

    /// The same for writing.
    pub fn write(&self, port: u16, data: &[u8]) -> Request {
        if port == layout::I8042_COMMAND && data.contains(&I8042_RESET) {
            return Request::Reset;
        }
        if let Some(register) = serial_register(port)
            && let Ok(mut serial) = self.serial.lock()
        {
            for byte in data {
                // Only the interrupt or the console can fail; neither is the guest's business.
                let _ = serial.write(register, *byte);
            }
        }
        Request::None
    }

    /// Writes what the console has gathered.
    pub fn flush_console(&self) {
        if let Ok(mut serial) = self.serial.lock() {
            serial.writer_mut().flush_gathered();
        }
    }
}

fn serial_register(port: u16) -> Option<u8> {
    let offset = port.checked_sub(layout::SERIAL_PORT)?;
    u8::try_from(offset).ok().filter(|offset| *offset < 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        let event = || EventFd::new(libc::EFD_NONBLOCK).unwrap();
        Ports::new(SerialInterrupt(event()), Console::new(None, event()))
    }

    #[test]
    fn only_the_reset_pulse_ends_the_machine() {
        let ports = ports();
        assert_eq!(ports.write(layout::I8042_COMMAND, &[0xfe]), Request::Reset);
        for (port, byte) in [(0x64, 0xd1), (0x60, 0xfe), (0xcf8, 0xfe), (0x80, 0xfe)] {
            assert_eq!(ports.write(port, &[byte]), Request::None);
        }
    }

    #[test]
    fn nobody_answers_on_other_ports() {
        let ports = ports();
        let mut data = [0; 4];
        ports.read(0xcfc, &mut data);
        assert_eq!(data, [0xff; 4]);
        let mut status = [0xff];
        ports.read(layout::I8042_COMMAND, &mut status);
        assert_eq!(status, [0], "neither buffer is full, or the guest waits before it resets");
        let mut line_status = [0];
        ports.read(layout::SERIAL_PORT + 5, &mut line_status);
        assert_eq!(line_status[0] & 0x20, 0x20, "ready for the next byte");
    }
}

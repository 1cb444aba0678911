use proptest::prelude::*;

use super::super::test_driver::{DRIVER_OK, Driver, FEATURES_OK};
use super::*;

#[derive(Default)]
struct Plain {
    resets: u32,
}

impl VirtioDevice for Plain {
    const ID: u32 = 33;
    const QUEUES: &'static [u16] = &[16, 16];

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..8).zip(data) {
            *byte = u8::try_from(at).unwrap() + 1;
        }
    }

    fn reset(&mut self) {
        self.resets += 1;
    }
}

fn is_active(driver: &Driver<Plain>) -> bool {
    driver.transport.with_active(|_| Ok(())).is_some()
}

#[test]
fn a_driver_that_keeps_the_order_is_served() {
    let driver = Driver::new(Plain::default());
    assert_eq!(driver.read(0), 0x7472_6976);
    assert_eq!(driver.read(4), 2);
    assert_eq!(driver.read(8), 33);
    driver.write(0x14, 0);
    assert_eq!(driver.read(0x10), 1 << 29);
    driver.write(0x14, 1);
    assert_eq!(driver.read(0x10), 1);
    assert!(!is_active(&driver));
    let driver = Driver::ready(Plain::default());
    assert!(is_active(&driver));
    assert_eq!(driver.activated.read().unwrap(), 1, "what was posted before is looked for");
    driver.write(0x70, 0);
    assert_eq!(driver.read(0x70), 0);
    assert!(!is_active(&driver));
    assert_eq!(driver.transport.with_device(|device| device.resets), 2);
}

#[test]
fn features_that_do_not_exist_or_a_driver_of_old_are_refused() {
    for (page, bits) in [(0, 1 << 28), (1, 3), (2, 1), (1, 0)] {
        let driver = Driver::new(Plain::default());
        driver.write(0x70, 1);
        driver.write(0x70, 3);
        driver.write(0x24, 1);
        driver.write(0x20, 1);
        driver.write(0x24, page);
        driver.write(0x20, bits);
        driver.write(0x70, FEATURES_OK);
        assert_eq!(driver.read(0x70), 3, "page {page} bits {bits:#x}");
    }
}

#[test]
fn queues_can_be_set_up_only_between_features_and_driver_ok() {
    let driver = Driver::new(Plain::default());
    driver.set_up(0);
    driver.write(0x30, 0);
    assert_eq!(driver.read(0x44), 0);
    let driver = Driver::ready(Plain::default());
    driver.write(0x30, 0);
    driver.write(0x80, 0xdead_0000);
    driver.transport.with_active(|active| {
        assert_eq!(active.queues[0].desc_table(), 0x10_0000);
        Ok(())
    });
    driver.write(0x30, 2);
    assert_eq!(driver.read(0x34), 0, "there is no third queue");
}

#[test]
fn a_queue_outside_of_memory_needs_a_reset() {
    let driver = Driver::new(Plain::default());
    driver.negotiate();
    driver.write(0x30, 0);
    driver.write(0x38, 16);
    driver.write(0x84, 1);
    driver.write(0x44, 1);
    driver.write(0x70, DRIVER_OK);
    assert_eq!(driver.read(0x70), FEATURES_OK | NEEDS_RESET);
    assert!(!is_active(&driver));
    driver.negotiate();
}

#[test]
fn a_fault_stops_the_service_and_tells_the_driver() {
    let driver = Driver::ready(Plain::default());
    let none = driver.transport.with_active(|_| Err::<(), _>(DriverFault("test")));
    assert!(none.is_none());
    assert_eq!(driver.read(0x70), DRIVER_OK | NEEDS_RESET);
    assert_eq!(driver.read(0x60), INT_CONFIG);
    assert_eq!(driver.interrupts(), 1);
    assert!(!is_active(&driver));
    driver.write(0x64, INT_CONFIG);
    assert_eq!(driver.read(0x60), 0);
}

#[test]
fn configuration_space_is_read_at_any_width_and_ends() {
    let driver = Driver::new(Plain::default());
    let mut eight = [0xff; 8];
    driver.transport.read(0x100, &mut eight);
    assert_eq!(eight, [1, 2, 3, 4, 5, 6, 7, 8]);
    let mut two = [0xff; 2];
    driver.transport.read(0x107, &mut two);
    assert_eq!(two, [8, 0]);
    driver.transport.read(u64::MAX, &mut two);
    assert_eq!(two, [0, 0]);
}

proptest! {
    #[test]
    fn no_sequence_of_writes_breaks_the_rules(
        writes in prop::collection::vec(
            (
                prop::sample::select(vec![
                    0x14u64, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94,
                    0xa0, 0xa4, 0xac, 0xfc, 0x100,
                ]),
                prop_oneof![
                    any::<u32>(),
                    0u32..20,
                    Just(1), Just(3), Just(0xb), Just(0xf), Just(0x10_0000),
                ],
            ),
            0..60,
        )
    ) {
        let driver = Driver::new(Plain::default());
        for (offset, value) in writes {
            driver.write(offset, value);
            let status = driver.read(0x70);
            // Each state contains the ones before it.
            if status & DRIVER_OK_BIT != 0 { prop_assert_eq!(status & 0xf, 0xf); }
            if status & 8 != 0 { prop_assert_eq!(status & 3, 3); }
            if status & 2 != 0 { prop_assert_eq!(status & 1, 1); }
            let served = driver.transport.with_active(|active| {
                for queue in active.queues.iter() {
                    assert!(!queue.ready() || queue.is_valid(active.ram));
                }
                Ok(())
            });
            prop_assert_eq!(served.is_some(), status & 0xc4 == 4);
        }
    }
}

const DRIVER_OK_BIT: u32 = 4;

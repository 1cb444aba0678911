//! The one thread that does what vCPUs must not wait for: queues, sockets, the NSM process, the console, the keeper. It sleeps
//! in epoll; whatever wakes it, each part is asked once what it has to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use vmm_sys_util::eventfd::EventFd;

use super::error::Error;
use super::machine::Kicks;
use super::messages::{FromVmm, StopReason, ToVmm};
use super::nsm_device::Nsm;
use super::vcpu::{Bus, End, Run};
use super::vsock::Vsock;
use super::vsock::muxer::FIRST_TOKEN;
use super::vsock::service::News;
use crate::channel::{Channel, Received};

const KEEPER: u64 = 0;
const ENDED: u64 = 1;
const CONSOLE: u64 = 2;
const NSM_LINK: u64 = 3;
const NSM_KICK: u64 = 4;
/// One for each queue.
const VSOCK_KICK: u64 = 16;

/// A console line without an end is shown after this time.
const CONSOLE_DELAY: Duration = Duration::from_millis(20);
const EVENTS: usize = 64;

/// What the loop works on.
pub struct IoLoop<'a> {
    epoll: Arc<Epoll>,
    keeper: &'a Channel,
    bus: &'a Bus,
    run: &'a Run,
    kicks: &'a Kicks,
    ended: &'a EventFd,
    console_due: Option<Instant>,
    heartbeat_told: bool,
}

#[derive(Default)]
struct Due {
    keeper: bool,
    nsm_answer: bool,
    nsm_request: bool,
    vsock: bool,
}

impl<'a> IoLoop<'a> {
    /// Registers everything in `epoll`.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn new(
        epoll: Arc<Epoll>,
        keeper: &'a Channel,
        bus: &'a Bus,
        run: &'a Run,
        kicks: &'a Kicks,
        ended: &'a EventFd,
    ) -> Result<IoLoop<'a>, Error> {
        let register = |fd: &dyn std::os::fd::AsRawFd, token| add(&epoll, fd, token);
        register(ended, ENDED)?;
        register(&kicks.console, CONSOLE)?;
        for (token, kick) in (VSOCK_KICK..).zip(&kicks.vsock) {
            register(kick, token)?;
        }
        for kick in &kicks.nsm {
            register(kick, NSM_KICK)?;
        }
        let input = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(keeper, input(KEEPER)).map_err(Error::nix("epoll_ctl for the keeper"))?;
        bus.nsm
            .with_device(|nsm| epoll.add(nsm.link(), input(NSM_LINK)))
            .map_err(Error::nix("epoll_ctl for the NSM process"))?;
        Ok(IoLoop {
            epoll,
            keeper,
            bus,
            run,
            kicks,
            ended,
            console_due: None,
            heartbeat_told: false,
        })
    }

    /// Works until the guest is over.
    ///
    /// # Errors
    /// Whatever ends the enclave from our side.
    pub fn work(&mut self) -> Result<(), Error> {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.run.is_over() {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => 0,
                Err(e) => return Err(Error::nix("epoll_wait")(e)),
            };
            let due = self.sort(events.get(..count).unwrap_or_default());
            self.serve(&due)?;
        }
        Ok(())
    }

    fn sort(&mut self, events: &[EpollEvent]) -> Due {
        let mut due = Due::default();
        for event in events {
            match event.data() {
                KEEPER => due.keeper = true,
                ENDED => drop(self.ended.read()),
                CONSOLE => {
                    drop(self.kicks.console.read());
                    self.console_due = Some(Instant::now() + CONSOLE_DELAY);
                }
                NSM_LINK => due.nsm_answer = true,
                NSM_KICK => {
                    self.kicks.nsm.iter().for_each(|kick| drop(kick.read()));
                    due.nsm_request = true;
                }
                token if token >= FIRST_TOKEN => {
                    self.bus
                        .vsock
                        .with_device(|vsock| vsock.backend().event(token, event.events()));
                    due.vsock = true;
                }
                token => {
                    let index = usize::try_from(token - VSOCK_KICK).unwrap_or(usize::MAX);
                    if let Some(kick) = self.kicks.vsock.get(index) {
                        drop(kick.read());
                    }
                    due.vsock = true;
                }
            }
        }
        due
    }

    fn serve(&mut self, due: &Due) -> Result<(), Error> {
        let now = Instant::now();
        if due.keeper {
            self.hear_keeper()?;
        }
        if due.nsm_answer
            && let Some(reply) = self.bus.nsm.with_device(Nsm::receive)?
        {
            self.bus.nsm.with_active(|mut active| Nsm::answer(&mut active, &reply));
        }
        if due.nsm_answer || due.nsm_request {
            self.bus.nsm.with_active(|mut active| Nsm::pump(&mut active)).unwrap_or(Ok(()))?;
        }
        if self.bus.nsm.with_device(|nsm| nsm.deadline()).is_some_and(|at| at <= now) {
            return Err(Error::Nsm { what: "has not answered for a minute" });
        }
        let expired = self.bus.vsock.with_device(|vsock| match vsock.backend().deadline() {
            Some(at) if at <= now => {
                vsock.backend().expire(now);
                true
            }
            _ => false,
        });
        if due.vsock || expired {
            let more = self.bus.vsock.with_active(|mut active| Vsock::process(&mut active));
            if more == Some(true)
                && let Some(kick) = self.kicks.vsock.first()
            {
                // The rest comes in the next round, after everybody else's turn.
                let _ = kick.write(1);
            }
            for news in self.bus.vsock.with_device(|vsock| vsock.backend().take_news()) {
                self.report(news)?;
            }
        }
        if self.console_due.is_some_and(|at| at <= now) {
            self.console_due = None;
            self.bus.ports.flush_console();
        }
        Ok(())
    }

    fn hear_keeper(&self) -> Result<(), Error> {
        match self.keeper.try_receive::<ToVmm>() {
            Ok(Received::Value(ToVmm::Stop)) => self.run.finish(End::Stopped(StopReason::Asked)),
            Ok(Received::Nothing) => {}
            Ok(Received::Value(_)) => {
                return Err(Error::Keeper { what: "said something out of turn".into() });
            }
            Ok(Received::End) => return Err(Error::Keeper { what: "has ended".into() }),
            Err(e) => return Err(Error::Keeper { what: format!("cannot be understood: {e}") }),
        }
        Ok(())
    }

    fn report(&mut self, news: News) -> Result<(), Error> {
        let message = match news {
            News::Heartbeat if std::mem::replace(&mut self.heartbeat_told, true) => return Ok(()),
            News::Heartbeat => FromVmm::Heartbeat,
            News::Ready => FromVmm::Ready,
            News::Exited(exit) => FromVmm::AppExited(exit),
            News::Failed(reason) => FromVmm::InitFailed { reason },
        };
        tell(self.keeper, &message)
    }

    fn timeout(&self) -> EpollTimeout {
        let vsock = self.bus.vsock.with_device(|vsock| vsock.backend().deadline());
        let nsm = self.bus.nsm.with_device(|nsm| nsm.deadline());
        let Some(next) = [vsock, nsm, self.console_due].into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, so that it is over when the loop looks.
        let millis = i32::try_from(left.as_millis() + 1).unwrap_or(i32::MAX);
        EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::ZERO)
    }
}

/// Says something to the keeper.
///
/// # Errors
/// [`Error::Keeper`].
pub fn tell(keeper: &Channel, message: &FromVmm) -> Result<(), Error> {
    keeper
        .send(message)
        .map_err(|e| Error::Keeper { what: format!("cannot be told anything: {e}") })
}

fn add(epoll: &Epoll, fd: &dyn std::os::fd::AsRawFd, token: u64) -> Result<(), Error> {
    // SAFETY: the descriptor is open for as long as its owner is borrowed, that is, longer than this call.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd.as_raw_fd()) };
    epoll
        .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token))
        .map_err(Error::nix("epoll_ctl for an eventfd"))
}

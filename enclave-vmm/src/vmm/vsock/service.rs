//! The two ports that the VMM answers itself, one set for each enclave, so that two starts never meet: the heartbeat (a byte
//! that comes back) and init's control connection.

use std::collections::VecDeque;

use guest_abi::{control, frame, ports};

use crate::vmm::messages::{AppExit, Parameters};

/// What a service has learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Init sent its heartbeat and got it back.
    Heartbeat,
    /// The app runs.
    Ready,
    /// The app ended.
    Exited(AppExit),
    /// The app could not be started; made printable.
    Failed(String),
}

/// The guest broke the service's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// One connection to a service.
#[derive(Debug)]
pub struct Service {
    kind: Kind,
    outgoing: VecDeque<u8>,
}

#[derive(Debug)]
enum Kind {
    Heartbeat,
    Control { incoming: Vec<u8>, parameters: Parameters, asked: bool },
}

impl Service {
    /// Port [`ports::HEARTBEAT`].
    #[must_use]
    pub fn heartbeat() -> Service {
        Service { kind: Kind::Heartbeat, outgoing: VecDeque::new() }
    }

    /// Port [`ports::CONTROL`]; `parameters` go to init if it asks.
    #[must_use]
    pub fn control(parameters: Parameters) -> Service {
        let kind = Kind::Control { incoming: Vec::new(), parameters, asked: false };
        Service { kind, outgoing: VecDeque::new() }
    }

    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// [`Refused`]: the connection must be reset.
    pub fn receive(&mut self, bytes: &[u8], news: &mut Vec<News>) -> Result<(), Refused> {
        match &mut self.kind {
            Kind::Heartbeat => {
                for byte in bytes {
                    if *byte != ports::HEARTBEAT_BYTE {
                        return Err(Refused);
                    }
                    // Nobody sends many; a guest that does and never reads is not worth memory.
                    if self.outgoing.len() < 16 {
                        self.outgoing.push_back(*byte);
                    }
                    news.push(News::Heartbeat);
                    news.dedup();
                }
            }
            Kind::Control { incoming, parameters, asked } => {
                incoming.extend_from_slice(bytes);
                loop {
                    let (message, used) = match frame::split(incoming, control::MAX_FRAME) {
                        Ok(Some((body, used))) => {
                            (control::ToVmm::decode(body).map_err(|_| Refused)?, used)
                        }
                        Ok(None) => break,
                        Err(_) => return Err(Refused),
                    };
                    incoming.drain(..used);
                    match message {
                        control::ToVmm::Parameters if *asked => return Err(Refused),
                        control::ToVmm::Parameters => {
                            *asked = true;
                            let answer = control::FromVmm::Parameters {
                                args: std::mem::take(&mut parameters.args),
                                env: std::mem::take(&mut parameters.env),
                            };
                            let body = answer.encode().map_err(|_| Refused)?;
                            let framed =
                                frame::encode(&body, control::MAX_FRAME).map_err(|_| Refused)?;
                            self.outgoing.extend(framed);
                        }
                        control::ToVmm::Ready => news.push(News::Ready),
                        control::ToVmm::Exited(exit) => news.push(News::Exited(match exit {
                            control::Exit::Code(code) => AppExit::Code(code),
                            control::Exit::Signal(signal) => AppExit::Signal(signal),
                        })),
                        control::ToVmm::Failed { reason } => {
                            news.push(News::Failed(printable(&reason)));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves bytes for the guest into `buffer`; 0 when there are none now.
    pub fn send(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.outgoing.len());
        for (to, from) in buffer.iter_mut().zip(self.outgoing.drain(..length)) {
            *to = from;
        }
        length
    }
}

/// What a guest says ends up on a terminal: no control characters, no end.
fn printable(text: &str) -> String {
    text.chars().take(control::MAX_REASON).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &control::ToVmm) -> Vec<u8> {
        frame::encode(&message.encode().unwrap(), control::MAX_FRAME).unwrap()
    }

    #[test]
    fn a_heartbeat_comes_back_and_anything_else_is_refused() {
        let mut service = Service::heartbeat();
        let mut news = Vec::new();
        service.receive(&[0xb7], &mut news).unwrap();
        assert_eq!(news, [News::Heartbeat]);
        let mut buffer = [0; 8];
        assert_eq!(service.send(&mut buffer), 1);
        assert_eq!(buffer[0], 0xb7);
        assert_eq!(service.receive(&[0xb8], &mut news), Err(Refused));
    }

    #[test]
    fn control_frames_may_come_in_any_pieces() {
        let stream: Vec<u8> = [
            control::ToVmm::Parameters,
            control::ToVmm::Ready,
            control::ToVmm::Failed { reason: "a\x1b[2Jb".into() },
            control::ToVmm::Exited(control::Exit::Signal(9)),
        ]
        .iter()
        .flat_map(framed)
        .collect();
        for piece in [1, 2, 3, 7, stream.len()] {
            let parameters =
                Parameters { args: vec!["x".into()], env: [("A".into(), "b".into())].into() };
            let mut service = Service::control(parameters);
            let mut news = Vec::new();
            for bytes in stream.chunks(piece) {
                service.receive(bytes, &mut news).unwrap();
            }
            let expected =
                [News::Ready, News::Failed("a [2Jb".into()), News::Exited(AppExit::Signal(9))];
            assert_eq!(news, expected);
            let mut buffer = [0; 256];
            let length = service.send(&mut buffer);
            let (body, used) =
                frame::split(&buffer[..length], control::MAX_FRAME).unwrap().unwrap();
            assert_eq!(used, length);
            let control::FromVmm::Parameters { args, env } =
                control::FromVmm::decode(body).unwrap();
            assert_eq!((args.len(), env.len()), (1, 1));
        }
    }

    #[test]
    fn rubbish_long_frames_and_a_second_question_are_refused() {
        let news = &mut Vec::new();
        assert!(Service::control(Parameters::default()).receive(&[0xff; 4], news).is_err());
        assert!(
            Service::control(Parameters::default()).receive(&[0, 0, 0, 1, 0xff], news).is_err()
        );
        let mut service = Service::control(Parameters::default());
        let question = framed(&control::ToVmm::Parameters);
        service.receive(&question, news).unwrap();
        assert!(service.receive(&question, news).is_err());
    }
}
